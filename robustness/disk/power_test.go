package disk_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/file"
	"github.com/skiff-k8s/skiff/apiserver/backend/sqlite"
	"github.com/skiff-k8s/skiff/robustness/disk"
)

// writerVariable makes the test binary a program that writes to the file that it
// names.
const writerVariable = "SKIFF_ROBUSTNESS_WRITER"

func TestMain(m *testing.M) {
	disk.Confine()
	if os.Getenv(tellerVariable) != "" {
		tell(os.Stdin)
		return
	}
	path := os.Getenv(writerVariable)
	if path == "" {
		os.Exit(m.Run())
	}
	if err := writeSome(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// open opens a file with the engine that it is named after.
func open(path string) (backend.Backend, error) {
	if filepath.Ext(path) == ".sqlite" {
		return sqlite.Open(path)
	}
	return file.Open(path)
}

// writes is how many writes a writer does.
const writes = 12

// writeSome writes, always the same, and says what was acknowledged. Halfway it
// forgets history. While the file is made smaller, if there is that much to forget,
// it goes on writing.
func writeSome(path string) error {
	b, err := open(path)
	if err != nil {
		return err
	}
	begin, err := b.Revision(context.Background())
	if err != nil {
		return err
	}
	compacted := make(chan error, 1)
	at := make(map[string]int64)
	for n := range writes {
		key := fmt.Sprintf("/k/%d", n%5)
		switch {
		case n%7 == 6 && at[key] != 0:
			_, err = b.Delete(context.Background(), key, at[key])
			at[key] = 0
		default:
			at[key], err = b.Put(context.Background(), key, value(n), at[key], 0)
		}
		if err != nil {
			return err
		}
		fmt.Println(n)
		if n == 5 {
			go func() { compacted <- b.Compact(context.Background(), begin+5) }()
		}
	}
	return errors.Join(<-compacted, b.Close())
}

// value is what the n-th write writes, of different sizes.
func value(n int) []byte { return fmt.Appendf(nil, "%d %s", n, strings.Repeat("x", n*n*20)) }

// expected is what all keys have after n writes.
func expected(n int) string {
	state := make(map[string]string)
	for i := range n {
		key := fmt.Sprintf("/k/%d", i%5)
		if _, ok := state[key]; ok && i%7 == 6 {
			delete(state, key)
			continue
		}
		state[key] = string(value(i))
	}
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(state)) {
		fmt.Fprintf(&text, "%s=%s\n", key, state[key])
	}
	return text.String()
}

// interrupted runs the writer, ends it at its n-th call, with what judge says of
// the calls before, and takes the power. It returns how many writes were
// acknowledged, and whether the writer got so far as to be ended.
func interrupted(t *testing.T, d *disk.Disk, path string, n int, seed uint64, judge func(disk.Call) disk.Verdict) (acknowledged int, ended bool) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), writerVariable+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	d.Judge(func(c disk.Call) disk.Verdict {
		if calls++; calls >= n {
			ended = true
			return disk.Verdict{Kill: true}
		}
		if judge != nil {
			return judge(c)
		}
		return disk.Verdict{}
	})
	gone, err := d.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		acknowledged++
	}
	_ = cmd.Wait() // it was killed
	<-gone
	if err := d.LosePower(rand.New(rand.NewPCG(seed, uint64(n)))); err != nil {
		t.Fatal(err)
	}
	return acknowledged, ended
}

// lost says what of the acknowledged writes is not in the file, or is there in
// part. One more may be there: it was not answered.
func lost(path string, acknowledged int) error {
	b, err := open(path)
	if err != nil {
		return err
	}
	defer b.Close()
	page, err := b.List(context.Background(), "/k/", "", 0, 0)
	if err != nil {
		return err
	}
	var found strings.Builder
	for _, e := range page.Entries {
		fmt.Fprintf(&found, "%s=%s\n", e.Key, e.Value)
	}
	if got := found.String(); got != expected(acknowledged) && got != expected(min(acknowledged+1, writes)) {
		return fmt.Errorf("%d keys at %d are not what %d acknowledged writes made", len(page.Entries), page.Revision, acknowledged)
	}
	// What is there takes writes.
	_, err = b.Put(context.Background(), "/more", nil, backend.Absent, 0)
	return err
}

// large is a file that is made smaller when all but its last write is forgotten.
func large(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "skiff.db")
	b, err := file.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	at := int64(0)
	for range 13 {
		if at, err = b.Put(t.Context(), "/large", make([]byte, backend.MaxValue-100), at, 0); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// files are one of each engine, with how far apart the calls are at which power
// is lost: some make many.
var files = map[string]int{"skiff.db": 1, "skiff.sqlite": 4}

// Whenever the power goes, all that was acknowledged is there afterwards: at
// every call of every write.
func TestPowerLoss(t *testing.T) {
	for name, apart := range files {
		t.Run(name, func(t *testing.T) {
			for seed := range 2 {
				for n, ended := 1+seed, true; ended; n += apart {
					folder := t.TempDir()
					path := filepath.Join(folder, name)
					var acknowledged int
					acknowledged, ended = interrupted(t, disk.New(folder), path, n, uint64(seed), nil)
					if err := lost(path, acknowledged); err != nil {
						t.Errorf("seed %d, power lost at call %d: %v", seed, n, err)
					}
					if !ended && n < 3*writes {
						t.Errorf("the writer ended after %d calls", n)
					}
				}
			}
		})
	}
}

// The same while a file is made smaller: at every call from the first that makes the
// smaller file on. There is always one file, with all that was acknowledged.
func TestPowerLossWhileShrinking(t *testing.T) {
	content := large(t)
	folder := t.TempDir()
	path := filepath.Join(folder, "skiff.db")
	for n, ended := 0, true; ended; n++ {
		refill(t, path, content)
		ended = false
		kill := since(func(c disk.Call) bool { return filepath.Ext(c.Path) == ".smaller" }, n, &ended)
		acknowledged, _ := interrupted(t, disk.New(folder), path, math.MaxInt, uint64(n), kill)
		if err := lost(path, acknowledged); err != nil {
			t.Errorf("power lost %d calls after the copy began: %v", n, err)
		}
		if left, err := os.ReadDir(folder); err != nil || len(left) != 1 {
			t.Errorf("power lost %d calls after the copy began: opening the file leaves %v, %v", n, left, err)
		}
		if !ended && n < 10 {
			t.Errorf("the writer ended %d calls after the copy began", n)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() > int64(len(content)/2) {
		t.Errorf("the file was not made smaller: it has %v bytes, %v", info.Size(), err)
	}
}

// since ends a program n calls after the first of some calls, and says whether it did.
func since(first func(disk.Call) bool, n int, ended *bool) func(disk.Call) disk.Verdict {
	begun := false
	return func(c disk.Call) disk.Verdict {
		begun = begun || first(c)
		if begun {
			*ended = *ended || n == 0 // it may call once more before it has ended
			n--
		}
		return disk.Verdict{Kill: *ended}
	}
}

// refill makes a folder what it was.
func refill(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Syncs of the smaller file, and of its name, that are left out are found.
func TestSkippedSyncWhileShrinking(t *testing.T) {
	content := large(t)
	for name, forget := range map[string]func(c disk.Call) bool{
		"of the smaller file": func(c disk.Call) bool { return filepath.Ext(c.Path) == ".smaller" },
		"of its name":         func(c disk.Call) bool { return filepath.Ext(c.Path) == "" },
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			path := filepath.Join(folder, "skiff.db")
			renamed := func(c disk.Call) bool { return c.Kind == disk.Rename }
			for seed := range uint64(40) {
				refill(t, path, content)
				var ended bool
				kill := since(renamed, int(seed%20), &ended) // a loss of power before takes nothing
				acknowledged, _ := interrupted(t, disk.New(folder), path, math.MaxInt, seed, func(c disk.Call) disk.Verdict {
					v := kill(c)
					v.Skip = !v.Kill && c.Kind == disk.Sync && forget(c)
					return v
				})
				if err := lost(path, acknowledged); err != nil {
					t.Logf("found with power lost %d calls after the file got its name: %v", seed%20, err)
					return
				}
			}
			t.Error("nothing is found")
		})
	}
}

// Syncs that are left out are found.
func TestSkippedSync(t *testing.T) {
	for name, forget := range map[string]func(c disk.Call) bool{
		"all":              func(disk.Call) bool { return true },
		"those of folders": func(c disk.Call) bool { return filepath.Ext(c.Path) == "" },
	} {
		for file := range files {
			t.Run(name+"/"+file, func(t *testing.T) {
				for n := 10; n < 160; n++ {
					folder := t.TempDir()
					path := filepath.Join(folder, file)
					acknowledged, _ := interrupted(t, disk.New(folder), path, n, 1, func(c disk.Call) disk.Verdict {
						return disk.Verdict{Skip: c.Kind == disk.Sync && forget(c)}
					})
					if err := lost(path, acknowledged); err != nil {
						t.Logf("found with power lost at call %d: %v", n, err)
						return
					}
				}
				t.Error("nothing is found")
			})
		}
	}
}
