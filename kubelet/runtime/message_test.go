package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestExitMessage(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	log := file("log", "2026-01-01T00:00:00Z stdout F first\n2026-01-01T00:00:00Z stderr P par\n2026-01-01T00:00:00Z stderr F tial\n")
	many := file("many", strings.Repeat("2026-01-01T00:00:00Z stdout F x\n", 200))
	long := file("long", "2026-01-01T00:00:00Z stdout F "+strings.Repeat("y", 5000)+"\n")
	for _, test := range []struct {
		name, file, log, policy, runtime string
		code                             int32
		want                             string
	}{
		{name: "file", file: file("f", "OK"), want: "OK"},
		{name: "file and runtime", file: file("g", "OK"), runtime: "killed", want: "killed: OK"},
		{name: "empty file", file: file("h", ""), log: log, code: 1},
		{name: "long file", file: file("i", strings.Repeat("a", 100)+strings.Repeat("b", 4096)), want: strings.Repeat("b", 4096)},
		{name: "log of a failure", file: file("j", ""), log: log, code: 1, policy: "FallbackToLogsOnError", want: "first\npartial\n"},
		{name: "no log of a success", file: file("k", ""), log: log, policy: "FallbackToLogsOnError"},
		{name: "file before log", file: file("l", "OK"), log: log, code: 1, policy: "FallbackToLogsOnError", want: "OK"},
		{name: "many lines", log: many, code: 1, policy: "FallbackToLogsOnError", want: strings.Repeat("x\n", 80)},
		{name: "long line", log: long, code: 1, policy: "FallbackToLogsOnError", want: strings.Repeat("y", 2047) + "\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &cri.ContainerStatus{
				ExitCode: test.code, Message: test.runtime, LogPath: test.log,
				Annotations: map[string]string{annotationMessagePath: "/dev/termination-log", annotationMessagePolicy: test.policy},
			}
			if test.file != "" {
				s.Mounts = []*cri.Mount{{ContainerPath: "/dev/termination-log", HostPath: test.file}}
			}
			if got := exitMessage(s); got != test.want {
				t.Errorf("message is %q, want %q", got, test.want)
			}
		})
	}
}

func TestDifference(t *testing.T) {
	before := map[string]known{"same": {"a", 1}, "changed": {"b", 1}, "gone": {"c", 1}}
	after := map[string]known{"same": {"a", 1}, "changed": {"b", 2}, "new": {"d", 1}}
	got := difference(before, after)
	for _, uid := range []string{"b", "c", "d"} {
		if _, found := got[types.UID(uid)]; !found {
			t.Errorf("pod %s is not among the changed ones", uid)
		}
	}
	if len(got) != 3 {
		t.Errorf("changed pods are %v, want b, c and d", got)
	}
}
