package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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
			if got := exitMessage(t.Context(), s, dir); got != test.want {
				t.Errorf("message is %q, want %q", got, test.want)
			}
		})
	}
}

// TestHostileMessages has a pod mount what it likes at the path of its termination message.
func TestHostileMessages(t *testing.T) {
	root := t.TempDir()
	pod := filepath.Join(root, "pods", "uid", "containers", "c")
	in := func(name string) string { return filepath.Join(pod, name) }
	for _, err := range []error{
		os.MkdirAll(pod, 0o755),
		os.WriteFile(filepath.Join(root, "secret"), []byte("host"), 0o600),
		os.Symlink("../../../../secret", in("link")),
		unix.Mkfifo(in("fifo"), 0o600),
		unix.Mknod(in("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))),
		os.WriteFile(in("sparse"), nil, 0o600),
		os.Truncate(in("sparse"), 2<<30),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	status := func(name, policy string) *cri.ContainerStatus {
		return &cri.ContainerStatus{
			ExitCode: 1, LogPath: in(name),
			Annotations: map[string]string{annotationMessagePath: "dev/termination-log", annotationMessagePolicy: policy},
			Mounts:      []*cri.Mount{{ContainerPath: "/dev/termination-log", HostPath: in(name)}},
		}
	}
	for name, want := range map[string]string{
		"link":   ": too many levels of symbolic links",
		"fifo":   " is not a regular file",
		"device": " is not a regular file",
	} {
		got := exitMessage(t.Context(), status(name, ""), root)
		if !strings.HasPrefix(got, "Error on reading termination log "+in(name)+": ") || !strings.HasSuffix(got, want) {
			t.Errorf("message from a %s is %q", name, got)
		}
		s := status(name, "FallbackToLogsOnError")
		s.Mounts = nil
		if got := exitMessage(t.Context(), s, root); !strings.HasPrefix(got, "Error on reading termination message from logs: ") || !strings.HasSuffix(got, want) {
			t.Errorf("message from a log that is a %s is %q", name, got)
		}
	}
	if got := exitMessage(t.Context(), status("sparse", ""), root); got != strings.Repeat("\x00", 4096) {
		t.Errorf("message from 2 GiB has %d bytes, want 4096", len(got))
	}
}

// FuzzTailText gives the reader what may stand at a log's end.
func FuzzTailText(f *testing.F) {
	f.Add([]byte("2026-01-01T00:00:00Z stdout F first\n2026-01-01T00:00:00Z stderr P par\n2026-01-01T00:00:00Z stderr F tial\n"))
	f.Add([]byte(" P \n   \n\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		text := tailText(data)
		if len(text) > maxMessageLog || strings.Count(text, "\n") > maxMessageLogLines {
			t.Errorf("text has %d bytes and %d lines", len(text), strings.Count(text, "\n"))
		}
	})
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
