package disk_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/robustness/disk"
)

// tellerVariable makes the test binary a program that says what time it is.
const tellerVariable = "SKIFF_ROBUSTNESS_TELLER"

// tell says for every line that it is asked what time it is, and for how long it
// has run.
func tell(questions io.Reader) {
	began := time.Now()
	for lines := bufio.NewScanner(questions); lines.Scan(); {
		now := time.Now()
		fmt.Println(now.UnixNano(), int64(now.Sub(began)))
	}
}

// A program's clock jumps, and its monotonic clock does not.
func TestClock(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), tellerVariable+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d := disk.NewGate("", nil)
	ended, err := d.StartWithClock(cmd)
	if err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(out)
	began := time.Now()
	for _, by := range []time.Duration{0, time.Hour, -time.Hour, 0} {
		d.Jump(by)
		before := time.Now()
		if _, err := fmt.Fprintln(in); err != nil {
			t.Fatal(err)
		}
		var nanoseconds, ran int64
		if _, err := fmt.Fscanln(answers, &nanoseconds, &ran); err != nil {
			t.Fatal(err)
		}
		after := time.Now()
		if told := time.Unix(0, nanoseconds).Add(-by); told.Before(before.Add(-time.Millisecond)) || told.After(after.Add(time.Millisecond)) {
			t.Errorf("moved by %v, it is %v, want between %v and %v", by, told, before, after)
		}
		if time.Duration(ran) < 0 || time.Duration(ran) > time.Since(began) {
			t.Errorf("moved by %v, it has run for %v of %v", by, time.Duration(ran), time.Since(began))
		}
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	<-ended
}
