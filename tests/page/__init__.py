"""Tests of the page, in a browser that is closed before the tests of another folder."""
