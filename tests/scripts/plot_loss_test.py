#!/usr/bin/env python3
"""tools/plot_loss.py draws well-formed pictures with every curve inside the frame, and says what it cannot draw."""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SVG = "{http://www.w3.org/2000/svg}"


class PlotLossTest(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.base = pathlib.Path(self.directory.name)

    def plot(self, demo: object, *arguments: str) -> subprocess.CompletedProcess:
        (self.base / "demo.json").write_text(json.dumps(demo))
        return subprocess.run([sys.executable, str(ROOT / "tools/plot_loss.py"), str(self.base / "demo.json"),
                               "--output", str(self.base / "docs/loss.svg"), *arguments], capture_output=True,
                              text=True, timeout=60, check=False)

    def demo(self, *curves: list) -> dict:
        return {"nodes": len(curves), "parameters": 1000,
                "losses": [{"node": index, "losses": curve} for index, curve in enumerate(curves)]}

    def curves(self) -> list[list[tuple[float, float]]]:
        tree = xml.etree.ElementTree.parse(self.base / "docs/loss.svg")
        return [[tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
                for line in tree.iter(SVG + "polyline")]

    def test_curves_fall_inside_the_frame(self) -> None:
        (self.base / "single.json").write_text(json.dumps({"losses": [4.0, 3.0, 2.0]}))
        result = self.plot(self.demo([4.5, 3.1, None, 2.0], [4.4, 3.0, 2.4, 2.1]), "--single",
                           str(self.base / "single.json"))
        self.assertEqual(result.returncode, 0, result.stderr)
        curves = self.curves()
        self.assertEqual([len(curve) for curve in curves], [3, 4, 3])
        for curve in curves:
            self.assertTrue(all(0 < x < 760 and 0 < y < 400 for x, y in curve))
            self.assertLess(curve[0][1], curve[-1][1])  # y grows downwards
        text = (self.base / "docs/loss.svg").read_text()
        self.assertTrue(re.search("a single process", text))

    def test_a_constant_and_a_single_point(self) -> None:
        self.assertEqual(self.plot(self.demo([2.0])).returncode, 0)
        self.assertEqual(self.plot(self.demo([2.0, 2.0])).returncode, 0)

    def test_what_cannot_be_drawn_is_told(self) -> None:
        for wrong in (self.demo([]), {}, {"nodes": 1}):
            result = self.plot(wrong)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertIn("demo.json", result.stderr)


if __name__ == "__main__":
    unittest.main()
