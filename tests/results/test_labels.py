"""What things are called in tables."""

from vpetl_ray.results.labels import path_label


def test_a_path_has_a_label_where_the_folder_one_stands_in_is_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    assert path_label(gone / "runs") == "runs"
    gone.rmdir()
    assert path_label(tmp_path / "runs") == str(tmp_path / "runs")
