"""What a user's own folder or list holds as a data set; training and ``data`` both ask here."""

import os
from collections.abc import Sequence

from warp_translate.data import lists, names
from warp_translate.data.domain_folders import scan_domain_folders
from warp_translate.data.paired_layout import PairedLayout, scan_pairs
from warp_translate.data.unpaired_layout import UnpairedLayout, scan_domains
from warp_translate.errors import UserError


def scan_paired(name: str, root: str | os.PathLike[str]) -> PairedLayout:
    """The pairs of "paired_folder" or "paired_strips"; no image is decoded.

    Raises:
      UserError: training could not begin with them.
    """
    if lists.is_list(root):
        if name == names.STRIPS:
            raise UserError(f"{name} needs a folder, got the list {root}; use paired_folder for it")
        return lists.scan_pair_list(root)
    return scan_pairs(root, strips=name == names.STRIPS)


def scan_unpaired(root: str | os.PathLike[str]) -> UnpairedLayout:
    """The two domains of "unpaired_folder"; as `scan_paired`."""
    return lists.scan_two_domains(root) if lists.is_list(root) else scan_domains(root)


def scan_labelled(root: str | os.PathLike[str], domains: Sequence[str]) -> UnpairedLayout:
    """The domains of "domain_folders"; as `scan_paired`."""
    scan = lists.scan_listed_domains if lists.is_list(root) else scan_domain_folders
    return scan(root, domains)
