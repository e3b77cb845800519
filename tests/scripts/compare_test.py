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

    def test_costs_of_nothing(self):
        """CPU time comes in steps: short rounds may have cost none, and then only the other figure is compared."""
        def results(time, cpu):
            return [{'bytes': 1 << 20, 'ranks': 2, 'codec': 'fp32', 'transport': 'uring', 'time_us': {'median': time},
                     'cpu_s_per_op': cpu}]
        arguments = ('--perf', '--runs', '2', '--', 'allreduce')
        for old, new in ((0, 0.1), (0.1, 0), (0, 0)):
            self.program('old', 'papilio-perf', results(30, old))
            self.program('new', 'papilio-perf', results(20, new))
            result = self.run_it(str(self.root / 'old'), str(self.root / 'new'), *arguments)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(result.stderr.count('the ratio of CPU times is left out'), 1)
            self.assertEqual(self.compare(*arguments), {('1 MiB, 2 ranks, fp32, uring', '1/s'): [1.5] * 2})
        self.program('old', 'papilio-perf', results(0, 0))
        result = self.run_it(str(self.root / 'old'), str(self.root / 'new'), *arguments)
        self.assertEqual(result.returncode, 3, result.stderr)
        self.assertRegex(result.stderr, '^bench/compare: 1 MiB, .*0 was measured')

    def test_a_result_that_cannot_be_written_is_told_before_the_measurement(self):
        self.program('old', 'papilio-bench', {'benchmarks': [{'name': 'sum', 'GB/s': 1, 'cpu_time': 1}]})
        old = str(self.root / 'old')
        for path in (str(self.root), str(self.root / 'nowhere/a.json')):
            result = self.run_it(old, old, '--runs', '1', '--json', path)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertIn(f'cannot write `{path}`', result.stderr)
        self.assertFalse((self.root / 'log').exists(), 'nothing was measured')
        path = self.root / 'a.json'
        self.assertEqual(self.run_it(old, old, '--runs', '1', '--json', str(path)).returncode, 0)
        self.assertEqual(json.loads(path.read_text())[0]['ratios'], [1])

    def test_wrong_usage(self):
        self.program('old', 'papilio-bench', {'benchmarks': []})
        old = str(self.root / 'old')
        for arguments in ([], [old], [old, '/nowhere'], [old, old, '--perf'], [old, old, '--runs', '0'],
                          [old, old, '--runs', 'x'], [old, old, '--runs'], [old, old, '--no-such-flag'],
                          [old, old, '--perf', '--filter', 'x', '--', 'allreduce']):
            result = self.run_it(*arguments)
            self.assertEqual(result.returncode, 2, arguments)
            self.assertRegex(result.stderr, '^bench/compare: .*\n$', arguments)
            self.assertEqual(result.stderr.count('\n'), 1, arguments)
        self.assertEqual(self.run_it(old, old).returncode, 3)  # nothing in common


if __name__ == '__main__':
    unittest.main()
