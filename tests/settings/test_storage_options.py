"""How a profile says that a storage is reached and written to."""

from pathlib import Path

import pytest

from comfyline.errors import InputInvalid
from tests.settings.conftest import Resolve, Write

BARE = "runcomfy: {base_url: https://api.example}\nstorage:\n  uploads: s3://b/up\n"
ALL = (
    "  addressing_style: virtual\n  ca_bundle: ~/company.pem\n  aws_profile: studio\n"
    "  encryption: aws:kms\n  kms_key: key-7\n  storage_class: STANDARD_IA\n"
)


def test_each_option_reaches_the_settings(resolved: Resolve):
    storage = resolved(BARE + ALL).storage

    assert (storage.addressing_style, storage.aws_profile) == ("virtual", "studio")
    assert storage.ca_bundle == str(Path("~/company.pem").expanduser())
    assert (storage.encryption, storage.kms_key) == ("aws:kms", "key-7")
    assert storage.storage_class == "STANDARD_IA"


def test_without_any_of_them_the_storage_decides(resolved: Resolve):
    storage = resolved(BARE).storage

    assert storage.addressing_style == "auto"
    assert (storage.ca_bundle, storage.aws_profile, storage.storage_class) == (None, None, None)
    assert (storage.encryption, storage.kms_key) == (None, None)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("  kms_key: key-7\n", "encryption: aws:kms"),
        ("  encryption: AES256\n  kms_key: key-7\n", "encryption: aws:kms"),
        ("  encryption: rot13\n", "encryption"),
        ("  addressing_style: sideways\n", "addressing_style"),
        ("  storage_class: deep freeze\n", "storage_class"),
        ("  storage_klass: STANDARD\n", "storage_class"),
    ],
)
def test_what_no_storage_can_do_is_told(profile: Write, wrong: str, told: str):
    with pytest.raises(InputInvalid, match=told):
        profile(BARE + wrong)
