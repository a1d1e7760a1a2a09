"""Which part of an output folder is the pipeline's own, and which comes from its items."""

import pytest

from comfyline.pipeline.render import _root


@pytest.mark.parametrize(
    ("template", "folder", "root"),
    [
        ("out", "out", ""),
        ("out/{{ item.kind }}", "out/cats", "out"),
        ("/data/out-{{ run.date }}/{{ item.kind }}", "/data/out-1/cats", "/data"),
        ("out/{% if 1 %}a{% endif %}/b", "out/a/b", "out"),
        ("{{ item.folder }}/edited", "photos/edited", ""),
        ("file:///out/{{ item.kind }}", "file:///out/cats", "file:///out"),
        ("s3://bucket/{{ item.kind }}", "s3://bucket/cats", ""),
        ("out/{a}/{{ item.kind }}", "out/{a}/cats", "out/{a}"),
    ],
)
def test_a_root_is_what_is_written_out_before_the_first_template(
    template: str, folder: str, root: str
) -> None:
    assert _root(template, folder) == root
