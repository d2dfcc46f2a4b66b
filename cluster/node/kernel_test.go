package node

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestRegister has clusters come and go that need a setting.
func TestRegister(t *testing.T) {
	tests := []struct {
		name, before string
		do           func(t *testing.T, r register, s setting)
		after        string
		noted        bool
	}{
		{"set", "0", func(t *testing.T, r register, s setting) {
			check(t, r.set("a", []setting{s}))
		}, "1", true},
		{"nothing to change", "1", func(t *testing.T, r register, s setting) {
			check(t, r.set("a", []setting{s}))
		}, "1", false},
		{"put back", "0", func(t *testing.T, r register, s setting) {
			check(t, r.set("a", []setting{s}))
			check(t, r.restore("a"))
		}, "0", false},
		{"put back what was there before a crash", "0", func(t *testing.T, r register, s setting) {
			check(t, r.set("a", []setting{s}))
			check(t, r.set("a", []setting{s}))
			check(t, r.restore("a"))
		}, "0", false},
		{"another cluster still needs it", "0", func(t *testing.T, r register, s setting) {
			check(t, r.set("a", []setting{s}))
			check(t, r.set("b", []setting{s}))
			check(t, r.restore("a"))
		}, "1", true},
		{"the last one leaves", "0", func(t *testing.T, r register, s setting) {
			check(t, r.set("a", []setting{s}))
			check(t, r.set("b", []setting{s}))
			check(t, r.restore("a"))
			check(t, r.restore("b"))
		}, "0", false},
		{"the last one was killed and deleted", "0", func(t *testing.T, r register, s setting) {
			check(t, r.set("a", []setting{s}))
			check(t, r.set("b", []setting{s}))
			check(t, os.Remove("b"))
			check(t, r.restore("a"))
		}, "0", false},
		{"somebody else set it meanwhile", "0", func(t *testing.T, r register, s setting) {
			check(t, r.set("a", []setting{s}))
			check(t, os.WriteFile(s.file, []byte("2"), 0o644))
			check(t, r.restore("a"))
		}, "2", false},
		{"the kernel has lost it meanwhile", "0", func(t *testing.T, r register, s setting) {
			lost := setting{file: s.file + "-lost", value: "1"}
			check(t, os.WriteFile(lost.file, []byte("0"), 0o644))
			check(t, r.set("a", []setting{lost}))
			check(t, os.Remove(lost.file))
			check(t, r.restore("a"))
		}, "0", false},
		{"nothing was set", "0", func(t *testing.T, r register, _ setting) {
			check(t, r.restore("a"))
		}, "0", false},
		{"a kernel without it", "0", func(t *testing.T, r register, s setting) {
			check(t, r.set("a", []setting{{file: s.file + "-none", value: "1", optional: true}}))
		}, "0", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			t.Chdir(dir) // users are folders
			check(t, errors.Join(os.Mkdir("a", 0o755), os.Mkdir("b", 0o755)))
			r := register{file: filepath.Join(dir, "register.json")}
			s := setting{file: filepath.Join(dir, "setting"), value: "1"}
			check(t, os.WriteFile(s.file, []byte(test.before), 0o644))
			test.do(t, r, s)
			if got, err := readSetting(s.file); err != nil || got != test.after {
				t.Errorf("the setting: got %q (%v), want %q", got, err, test.after)
			}
			if _, err := os.Stat(r.file); errors.Is(err, fs.ErrNotExist) == test.noted {
				t.Errorf("the register is there: got %v, want %v", !test.noted, test.noted)
			}
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
