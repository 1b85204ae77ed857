from dataclasses import replace

import pytest

from vzoom.config import ZoomConfig
from vzoom.data.store import read
from vzoom.data.videos import check_video
from vzoom.synthetic.dataset import facts_of, write_questions, zooms_allowed
from vzoom.synthetic.spec import SyntheticConfig
from vzoom.video import open_video

CONFIG = SyntheticConfig(duration_seconds=32, num_scenes=(4, 8), scene_seconds=(4, 8), frame_size=56)
COUNT = replace(CONFIG, events_per_scene=(1, 4))


def test_records_say_what_their_videos_hold(tmp_path):
    folder = write_questions(tmp_path, "which", 3, CONFIG, zoom=ZoomConfig(), questions_per_video=2, first=5)
    records = list(read(folder))
    assert [r.id for r in records] == [f"which-training-{n:06d}-{k}" for n in (5, 6, 7) for k in (0, 1)]
    for record in records:
        video, question = facts_of(record.id, CONFIG)
        assert (record.question, record.options, record.reference) == (
            question.text,
            question.options,
            question.answer_letter,
        )
        check_video(record.video)
        with open_video(record.video.path) as file:
            assert file.info.duration_seconds == pytest.approx(video.config.duration_seconds, abs=0.2)
    assert len({r.video.path for r in records}) == 3


def test_what_is_there_is_not_made_again_and_more_is_added(tmp_path):
    write_questions(tmp_path, "which", 2, CONFIG, zoom=ZoomConfig())
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "videos").iterdir()}
    write_questions(tmp_path, "which", 3, CONFIG, zoom=ZoomConfig())
    write_questions(tmp_path, "count", 1, COUNT, zoom=ZoomConfig())
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert [r.id for r in read(tmp_path / "questions")] == [
        "which-training-000000-0",
        "which-training-000001-0",
        "which-training-000002-0",
        "count-training-000000-0",
    ]


def test_public_videos_are_others_than_those_of_training():
    assert facts_of("which-public-000001-0", CONFIG)[0] != facts_of("which-training-000001-0", CONFIG)[0]
    assert facts_of("which-public-000001-0", CONFIG) == facts_of("which-public-000001-0", {"which": CONFIG})
    assert facts_of("which-public-000001-0", CONFIG)[1] != facts_of("which-public-000001-3", CONFIG)[1]


@pytest.mark.parametrize("id", ["which", "which-public-1-0", "which-secret-000001-0", "which-public-000001-x"])
def test_another_id_is_refused(id):
    with pytest.raises(ValueError, match="not the id of a synthetic question"):
        facts_of(id, CONFIG)


def test_a_family_without_a_world_is_refused():
    with pytest.raises(ValueError, match="no config for the family count, only which"):
        facts_of("count-public-000001-0", {"which": CONFIG})


def test_numbers_are_checked(tmp_path):
    with pytest.raises(ValueError, match="num_videos"):
        write_questions(tmp_path, "which", 0, CONFIG, zoom=ZoomConfig())


def test_some_questions_allow_fewer_zooms_and_say_so_in_their_id(tmp_path):
    zoom = ZoomConfig(max_zooms=4)
    folder = write_questions(tmp_path, "which", 6, CONFIG, zoom=zoom, questions_per_video=20, fewer_zooms=0.5)
    limits = {r.id: r.config.max_zooms for r in read(folder)}
    assert {id: zooms_allowed(id, zoom) for id in limits} == limits
    assert set(limits.values()) == {0, 1, 2, 3, 4}
    assert 40 < sum(limit < 4 for limit in limits.values()) < 80
    assert all(id.endswith(f"-z{limit}") == (limit < 4) for id, limit in limits.items())
    lowered = next(id for id, limit in limits.items() if limit < 4)
    assert facts_of(lowered, CONFIG) == facts_of(lowered.rpartition("-z")[0], CONFIG)
    with pytest.raises(ValueError, match="a share, from 0 to 1"):
        write_questions(tmp_path, "which", 1, CONFIG, zoom=zoom, fewer_zooms=1.5)
