// Products of floats, or of what becomes floats, over Vec. Included after one of vec_*.h; see dense_generic.h.

template <class T> struct FloatMath {
  using Cell = float;
  using Operand = Vec;
  using Sum = Vec;
  static constexpr int kStep = Vec::kWidth;
  template <class A> static inline Vec operand(const A* p) { return load(p); }
  static inline Vec operand_n(const T* p, int n) { return load_n(p, n); }
  static inline Vec madd(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }
  static inline Vec zero() { return set1(0); }
  static inline float total(Vec sum) { return reduce_add(sum); }
  static inline void keep(Vec& a) { VZ_IN_REGISTER(a.v); }
  static inline void pack(const T* x, int n, float* to) { store(to, load_n(x, n)); }
};
