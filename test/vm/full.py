# SPDX-License-Identifier: Apache-2.0
"""The nightly set."""


def run(img, directory, report, opts):
  pass
