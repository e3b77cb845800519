#!/usr/bin/env python3
"""bench/gpu --show: the tables of results whose names are those that bench/cuda_bench.cc makes."""

import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parent.parent.parent


def pipeline_name():
    """As name_of() puts it together: its words, in their order, with a value behind each."""
    source = (ROOT / 'bench/cuda_bench.cc').read_text()
    body = re.search(r'std::string name_of\(const PipelineCase& which\) \{\n(.*?)\n\}', source, re.DOTALL)[1]
    words = re.findall(r'"(/[a-z]+:)"', body)
    values = {'/back:': 'each', '/slabs:': 'row'}
    return 'gpu/pipeline/fp32' + ''.join(word + values.get(word, '1048576') for word in words)


class Show(unittest.TestCase):
    def show(self, text):
        with tempfile.TemporaryDirectory() as directory:
            log = Path(directory) / 'bench.log'
            log.write_text(text)
            return subprocess.run([sys.executable, '-B', str(ROOT / 'bench/gpu'), '--show', str(log)], capture_output=True,
                                  text=True, timeout=60, check=False)

    def test_a_line_of_each_kind(self):
        shown = self.show(
            f'{pipeline_name()}/iterations:9/manual_time 5.21 ms 0.1 ms 9 in_GB/s=51.2 out_GB/s=50.1 of_copies=0.951 '
            'of_pieces=1.02 of_both=0.98 order_us=3.1 submit_us=0.4\n'
            'gpu/accumulate/int8/4194304/iterations:9 31 us 31 us 9 GB/s=2.1k of_copy=0.98\n'
            'gpu/notice/iterations:9 26.7 us 26.7 us 9\n')
        self.assertEqual(shown.returncode, 0, shown.stderr)
        row = next(line.split() for line in shown.stdout.splitlines() if line.startswith('each'))
        self.assertEqual(row, 'each fp32 1024K 1024K row 51.2 50.1 0.951 1.020 0.980 3.1 0.40'.split())
        self.assertIn('2100 (0.98)', shown.stdout)
        self.assertIn('26.7 us', shown.stdout)

    def test_nothing_to_show(self):
        self.assertEqual(self.show('no line of any benchmark\n').returncode, 0)


if __name__ == '__main__':
    unittest.main()
