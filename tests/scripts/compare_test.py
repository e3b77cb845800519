#!/usr/bin/env python3
"""bench/compare: with stand-ins for the programs, whose results are known: who runs when, the ratios, wrong usage."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
SCRIPT = Path(__file__).resolve().parent.parent.parent / 'bench/compare'
PATIENCE_SECONDS = 60

# Writes down that it ran, and results that depend on which of the two it is.
STAND_IN = """#!/usr/bin/env python3
import json, pathlib, sys
directory = pathlib.Path(__file__).resolve().parent
with open(directory.parent / 'log', 'a') as log:
    log.write(directory.name + ' ' + ' '.join(sys.argv[1:-2]) + '\\n')
pathlib.Path(sys.argv[sys.argv.index('--json') + 1]).write_text((directory / 'results').read_text())
"""


class Compare(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.root = Path(self.directory.name)

    def program(self, build, name, results):
        (self.root / build).mkdir(exist_ok=True)
        path = self.root / build / name
        path.write_text(STAND_IN)
        path.chmod(0o755)
        (self.root / build / 'results').write_text(json.dumps(results))

    def run_it(self, *arguments):
        return subprocess.run([sys.executable, '-B', str(SCRIPT), *arguments], capture_output=True, text=True,
                              timeout=PATIENCE_SECONDS, check=False)

    def compare(self, *arguments):
        result = self.run_it(str(self.root / 'old'), str(self.root / 'new'), '--json', '-', *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return {(row['name'], row['metric']): row['ratios'] for row in json.loads(result.stdout)}

    def test_bench(self):
        def results(rate, time):
            return {'benchmarks': [{'name': 'sum', 'GB/s': rate, 'cpu_time': 1},
                                   {'name': 'turn', 'cpu_time': time},
                                   {'name': f'only {rate}', 'cpu_time': 1},
                                   {'name': 'sum_mean', 'run_type': 'aggregate', 'GB/s': 1, 'cpu_time': 1}]}
        self.program('old', 'papilio-bench', results(10, 50))
        self.program('new', 'papilio-bench', results(12, 25))
        ratios = self.compare('--runs', '3', '--filter', 'x')
        self.assertEqual(ratios, {('sum', 'GB/s'): [1.2] * 3, ('turn', '1/s'): [2] * 3})
        ran = (self.root / 'log').read_text().split('\n')
        self.assertEqual(ran, [f'{each} --filter x' for each in ('old', 'new', 'new', 'old', 'old', 'new')] + [''])

    def test_perf(self):
        def results(time, cpu):
            return [{'bytes': 1 << 20, 'ranks': 4, 'codec': 'fp32', 'transport': 'uring', 'time_us': {'median': time},
                     'cpu_s_per_op': cpu}]
        self.program('old', 'papilio-perf', results(300, 0.1))
        self.program('new', 'papilio-perf', results(200, 0.2))
        name = '1 MiB, 4 ranks, fp32, uring'
        ratios = self.compare('--perf', '--runs', '1', '--', 'allreduce', '--ranks', '4')
        self.assertAlmostEqual(ratios[name, '1/s'][0], 1.5)
        self.assertAlmostEqual(ratios[name, '1/CPU s'][0], 0.5)
        self.assertIn('old allreduce --ranks 4', (self.root / 'log').read_text())

    def test_wrong_usage(self):
        self.program('old', 'papilio-bench', {'benchmarks': []})
        old = str(self.root / 'old')
        for arguments in ([], [old], [old, '/nowhere'], [old, old, '--perf'], [old, old, '--runs', '0'],
                          [old, old, '--perf', '--filter', 'x', '--', 'allreduce']):
            result = self.run_it(*arguments)
            self.assertEqual(result.returncode, 2, arguments)
            self.assertTrue(result.stderr, arguments)
        self.assertEqual(self.run_it(old, old).returncode, 3)  # nothing in common


if __name__ == '__main__':
    unittest.main()
