// Threads through OpenMP, which torch's own libgomp serves: never a second pool. Without OpenMP one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace vz {

inline int threads() {
#ifdef _OPENMP
  return omp_in_parallel() ? 1 : omp_get_max_threads();
#else
  return 1;
#endif
}

// Calls f(begin, end) on parts of [0, count), at most one per thread. What a thread throws, such as bad_alloc, is thrown
// again by the caller's; OpenMP would end the process.
template <class F>
void parallel_for(int64_t count, const F& f) {
  const int num = static_cast<int>(std::min<int64_t>(threads(), count));
  if (num <= 1) {
    if (count > 0) f(int64_t{0}, count);
    return;
  }
#ifdef _OPENMP
  std::exception_ptr thrown;
#pragma omp parallel num_threads(num)
  {
    const int64_t i = omp_get_thread_num(), n = omp_get_num_threads();
    try {
      f(count * i / n, count * (i + 1) / n);
    } catch (...) {
#pragma omp critical(vz_parallel_for)
      thrown = std::current_exception();
    }
  }
  if (thrown) std::rethrow_exception(thrown);
#endif
}

// The same, by one thread if all of it, `bytes_each` per item, is too little for more.
template <class F>
void in_parts(int64_t count, int64_t bytes_each, const F& f) {
  constexpr int64_t kBytesWorthAThread = 64 << 10;
  if (count * bytes_each < kBytesWorthAThread)
    f(int64_t{0}, count);
  else
    parallel_for(count, f);
}

}  // namespace vz
