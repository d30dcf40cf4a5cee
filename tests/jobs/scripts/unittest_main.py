import io
import sys
import unittest

sys.stderr = io.StringIO()


class Test(unittest.TestCase):
    def test_one(self):
        self.assertEqual(1, 1)

    def test_two(self):
        self.assertEqual(1, 2)


unittest.main()
