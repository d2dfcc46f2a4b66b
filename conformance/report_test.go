package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFirstLine(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"failure":      {"[FAILED] no pod\nIn [It] at: x.go:1", "no pod"},
		"plain":        {"timed out\n", "timed out"},
		"panic":        {"[PANICKED] Test Panicked\nIn [It] at: rand.go:180 @ 01/02/26\n\ninvalid argument to Intn\n\nFull Stack Trace", "panic: invalid argument to Intn"},
		"long":         {strings.Repeat("a", 199) + "éé", strings.Repeat("a", 199) + "…"},
		"like a table": {"a|b", "a\\|b"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := firstLine(test.text); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestTables(t *testing.T) {
	tests := []test{{name: "a [Conformance]", group: "one"}, {name: "b [Conformance]", group: "one"}, {name: "c [Conformance]", group: "two"}}
	var text strings.Builder
	notPassed := tables(&text, tests, map[string]outcome{
		"a [Conformance]": {result: passed}, "b [Conformance]": {failed, "why"}, "not chosen [Conformance]": {result: passed},
	})
	const want = "**1 passed, 1 failed, 1 not run.**\n\n" +
		"| capability | passed | failed | not run |\n|---|---|---|---|\n| one | 1 | 1 | 0 |\n| two | 0 | 0 | 1 |\n" +
		"\n## Failures\n\n| capability | test | first line |\n|---|---|---|\n| one | b [Conformance] | why |\n"
	if text.String() != want || notPassed != 2 {
		t.Errorf("got %d not passed and\n%s\nwant 2 and\n%s", notPassed, text.String(), want)
	}
}

func TestWriteResults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results.md")
	for _, step := range []struct{ old, want string }{
		{"", "new\n"},
		{"old\n", "new\n"},
		{"old\n\n" + oracleHeading + "\n5 differences\n", "new\n\n" + oracleHeading + "\n5 differences\n"},
	} {
		if step.old != "" {
			if err := os.WriteFile(file, []byte(step.old), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := writeResults(file, "new\n"); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != step.want {
			t.Errorf("after %q: got %q and %v, want %q", step.old, got, err, step.want)
		}
	}
}

// TestClaim has two runs want the same folder.
func TestClaim(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	free, err := claim(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claim(dir); err == nil {
		t.Error("a second run could claim the folder of one that is on")
	}
	if err := free(); err != nil {
		t.Fatal(err)
	}
	again, err := claim(dir)
	if err != nil {
		t.Fatalf("the folder is free again: %v", err)
	}
	if err := again(); err != nil {
		t.Error(err)
	}
}
