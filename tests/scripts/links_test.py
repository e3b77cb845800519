#!/usr/bin/env python3
"""bench/links: the bound of the best plan, what it says about wrong input, and that no namespace outlives it."""

import importlib.machinery
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / 'bench/links'
PATIENCE_SECONDS = 60


def load():
    loader = importlib.machinery.SourceFileLoader('links', str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader('links', loader))
    loader.exec_module(module)
    return module


links = load()


def plan_seconds(shares, rates, size):
    n = len(rates)
    return max(((1 - share) + (n - 1) * share) * size * 8 / rate for share, rate in zip(shares, rates))


def run(*arguments, **options):
    return subprocess.run([sys.executable, '-B', str(SCRIPT), *arguments], capture_output=True, text=True,
                          timeout=PATIENCE_SECONDS, **options)


def namespaces_of(pid):
    directory = Path('/run/netns')
    return sorted(directory.glob(f'papilio{pid}-*')) if directory.exists() else []


def can_make_namespaces():
    """Root in a container may lack what it takes; then the script has to say so, which is tested instead."""
    name = f'papilio-probe-{os.getpid()}'
    if subprocess.run(['ip', 'netns', 'add', name], capture_output=True).returncode != 0:
        return False
    wanted = (['ip', '-n', name, 'link', 'add', 'name', 'left', 'type', 'veth', 'peer', 'name', 'right'],
              ['tc', '-n', name, 'qdisc', 'add', 'dev', 'left', 'root', 'tbf', 'rate', '1mbit', 'burst', '10k',
               'latency', '50ms'],
              ['ip', '-n', name, 'link', 'add', 'name', 'middle', 'type', 'bridge'])
    made = all([subprocess.run(command, capture_output=True).returncode == 0 for command in wanted])
    subprocess.run(['ip', 'netns', 'delete', name], check=True)
    return made


class BestPlan(unittest.TestCase):
    def test_even_rates_give_even_shares(self):
        for n in range(3, 9):
            seconds, shares = links.best_plan([8e6] * n, 1000)
            self.assertAlmostEqual(seconds, 2 * (n - 1) / n * 1000 / 1e6)
            for share in shares:
                self.assertAlmostEqual(share, 1 / n)

    def test_a_host_too_slow_to_reduce_gets_nothing(self):
        seconds, shares = links.best_plan([200e6, 200e6, 200e6, 50e6], 64 << 20)
        self.assertAlmostEqual(seconds, (64 << 20) * 8 / 50e6)
        self.assertAlmostEqual(shares[3], 0)

    def test_two_hosts_wait_for_the_slower(self):
        self.assertAlmostEqual(links.best_plan([10e6, 20e6], 1000)[0], 8000 / 10e6)

    def test_the_plan_takes_what_it_says_and_no_drawn_plan_is_faster(self):
        draw = random.Random(7)
        for _ in range(300):
            n = draw.randint(2, 8)
            rates = [draw.uniform(1e6, 1e9) for _ in range(n)]
            seconds, shares = links.best_plan(rates, 1 << 20)
            self.assertAlmostEqual(sum(shares), 1)
            self.assertGreaterEqual(min(shares), -1e-9)
            self.assertLessEqual(plan_seconds(shares, rates, 1 << 20), seconds * (1 + 1e-9))
            for _ in range(100):
                # Near the best plan and far from it.
                near = [max(0.0, share + draw.gauss(0, 0.02)) for share in shares]
                for drawn in (near, [draw.expovariate(1) for _ in rates]):
                    total = sum(drawn)
                    other = [share / total for share in drawn]
                    self.assertGreaterEqual(plan_seconds(other, rates, 1 << 20), seconds * (1 - 1e-9))


class Quantities(unittest.TestCase):
    def test_as_written(self):
        self.assertEqual(links.parse_size('64M'), 64 << 20)
        self.assertEqual(links.parse_rate('200mbit'), 200e6)
        self.assertEqual(links.parse_rate('200Mbps'), 200e6)
        self.assertAlmostEqual(links.parse_time('40ms'), 0.04)

    def test_flows_load_every_host_both_ways(self):
        for rates in ([2e8] * 4, [2e8, 2e8, 2e8, 5e7], [1e8, 2e8], [1e8, 1e8], [3e8, 2e8, 1e8], [2e8, 2e8, 1e8, 1e8]):
            for flows in links.iperf_plan(rates):
                self.assertEqual(sorted(sender for sender, _ in flows), sorted(receiver for _, receiver in flows))
                self.assertEqual(len({sender for sender, _ in flows}), len(flows))
            touched = {host for flows in links.iperf_plan(rates) for flow in flows for host in flow}
            self.assertEqual(touched, set(range(len(rates))))


class WrongUse(unittest.TestCase):
    def assert_refused(self, message, *arguments):
        done = run(*arguments)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn(message, done.stderr)

    def test_each_names_the_value(self):
        self.assert_refused('`fast` is not a rate', 'run', '--rate', 'fast')
        self.assert_refused('`0mbit` is not a rate', 'run', '--rate', '0mbit')
        self.assert_refused('`1` is not a whole number of at least 2', 'run', '--hosts', '1')
        self.assert_refused('`soon` is not a time', 'run', '--rtt', 'soon')
        self.assert_refused('--hosts 3 but 2 --rates', 'run', '--hosts', '3', '--rates', '1mbit,2mbit')
        self.assert_refused('--rate or --rates', 'run', '--rate', '1mbit', '--rates', '1mbit,2mbit')
        self.assert_refused('65 hosts', 'run', '--hosts', '65')
        self.assert_refused('--loss needs --rtt', 'run', '--loss', '0.1')
        self.assert_refused('not a multiple of 4', 'run', '--bytes', '7')
        self.assert_refused('carrier-pigeon', 'run', '--congestion-control', 'carrier-pigeon')

    def test_a_missing_program_comes_with_its_remedy(self):
        # Whoever runs this: as an ordinary user the first thing missing is root.
        remedy = 'name it with --perf' if os.geteuid() == 0 else 'run it with sudo'
        with tempfile.TemporaryDirectory() as directory:
            for tool in ('ip', 'tc', 'iperf3'):
                os.symlink('/bin/true', os.path.join(directory, tool))
            environment = dict(os.environ, PATH=directory)
            done = run('run', '--perf', '/nonexistent/papilio-perf', env=environment)
            self.assertEqual(done.returncode, 2)
            self.assertIn(remedy, done.stderr)
            os.unlink(os.path.join(directory, 'iperf3'))
            done = run('run', env=environment)
            self.assertEqual(done.returncode, 2)
            self.assertIn('apt-get install iperf3' if os.geteuid() == 0 else remedy, done.stderr)


# Stands in for papilio-perf: says what it was asked for, and does as the test wants.
STAND_IN = '''#!/usr/bin/env python3
import json, os, signal, sys
flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
wanted = os.environ['STAND_IN']
if wanted == 'fail' and flags['--rank'] == '1':
    sys.exit('rank 1 has had enough')
if wanted != 'succeed':
    with open(os.environ['STAND_IN_STARTED'], 'w') as started:
        started.write('yes')
    signal.pause()
size = int(flags['--begin'])
time_us = {'median': 1e6 * (1 + int(flags['--rank'])), 'min': 1.0, 'max': 9e6}
with open(flags['--json'], 'w') as out:
    json.dump([{'bytes': size, 'time_us': time_us, 'wrong': 0, 'flags': flags}], out)
'''


class Topology(unittest.TestCase):
    """Two hosts. Where no namespaces can be made the script must say what it lacks and leave nothing."""

    def start(self, directory, wanted):
        perf = Path(directory, 'perf')
        perf.write_text(STAND_IN)
        perf.chmod(0o755)
        started = Path(directory, 'started')
        os.mkfifo(started)
        environment = dict(os.environ, STAND_IN=wanted, STAND_IN_STARTED=str(started))
        process = subprocess.Popen(
            [sys.executable, '-B', str(SCRIPT), 'run', '--rates', '100mbit,50mbit', '--bytes', '1M', '--perf',
             str(perf), '--iperf-seconds', '1', '--json', '-'],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        self.addCleanup(self.end, process)
        return process, started

    @staticmethod
    def end(process):
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=PATIENCE_SECONDS)

    def setUp(self):
        if os.geteuid() != 0:
            self.expected = (2, 'run it with sudo')
        elif not all(shutil.which(tool) for tool in ('ip', 'tc', 'iperf3')):
            self.expected = (2, 'apt-get install')
        else:
            self.expected = None if can_make_namespaces() else (3, 'need CAP_SYS_ADMIN')
        if self.expected is not None:
            # What is tried instead is that it says so.
            print(f'\nleft out: {self._testMethodName} (bench/links cannot make its hosts here: {self.expected[1]})',
                  flush=True)

    def finish(self, process, code, message):
        out, error = process.communicate(timeout=PATIENCE_SECONDS)
        code, message = self.expected or (code, message)
        self.assertEqual(process.returncode, code, error)
        self.assertIn(message, error)
        self.assertEqual(namespaces_of(process.pid), [])
        return out

    def test_a_run_reports_the_slowest_rank_and_removes_everything(self):
        with tempfile.TemporaryDirectory() as directory:
            process, _ = self.start(directory, 'succeed')
            out = self.finish(process, 0, 'of the limit')
            if self.expected is None:
                result = json.loads(out)
                self.assertEqual(result['seconds'], 2.0)
                self.assertAlmostEqual(result['of_limit'], result['bound_seconds'] / 2.0)
                self.assertEqual(result['perf'][1]['flags']['--rates'], '100Mbps,50Mbps')
                self.assertEqual(result['perf'][0]['flags']['--peers'], '10.77.0.1:31337,10.77.0.2:31337')

    def test_a_rank_that_fails_ends_the_others(self):
        with tempfile.TemporaryDirectory() as directory:
            process, started = self.start(directory, 'fail')
            if self.expected is None:
                started.read_text()
            self.finish(process, 3, 'rank 1: rank 1 has had enough')

    def test_an_interrupt_removes_everything(self):
        with tempfile.TemporaryDirectory() as directory:
            process, started = self.start(directory, 'wait')
            if self.expected is None:
                started.read_text()  # both in the middle of their work, or about to be
                process.send_signal(signal.SIGINT)
            self.finish(process, 130, 'interrupted')


if __name__ == '__main__':
    unittest.main()
