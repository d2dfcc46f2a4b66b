package cluster

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func writeLog(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestLogsOfParts(t *testing.T) {
	c := Config{DataDir: t.TempDir()}
	own := "level=INFO msg=a component=apiserver\nlevel=INFO msg=\"of component=scheduler\" node=node-1\nlevel=INFO msg=c component=scheduler"
	writeLog(t, filepath.Join(c.DataDir, "skiff.log"), own)
	writeLog(t, filepath.Join(c.DataDir, "nodes", "node-1", "containerd.log"), "runtime\n")
	writeLog(t, filepath.Join(c.DataDir, "nodes", "node-2", "node.log"), "second\n")
	lines := strings.SplitAfter(own, "\n")
	for part, want := range map[string]string{
		"cluster": own, "apiserver": lines[0], "node-1": lines[1], "node-1/containerd": "runtime\n", "node-2": "second\n", "scheduler": lines[2],
	} {
		var out bytes.Buffer
		if err := Logs(t.Context(), c, part, false, &out); err != nil || out.String() != want {
			t.Errorf("%s: got %q (%v), want %q", part, out.String(), err, want)
		}
	}
	err := Logs(t.Context(), c, "nonsense", false, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "cluster, apiserver, scheduler, node-1, node-1/containerd, node-2, node-2/containerd") {
		t.Errorf("a part that is not there: %v, want the names of those that are", err)
	}
}

// TestLogsAreFollowed follows a log that grows, in pieces, and is begun anew.
func TestLogsAreFollowed(t *testing.T) {
	c := Config{DataDir: t.TempDir()}
	file := filepath.Join(c.DataDir, "skiff.log")
	writeLog(t, file, "one\n")
	read, write := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Logs(ctx, c, "cluster", true, write) }()
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(read, got); err != nil || string(got) != want {
			t.Fatalf("got %q (%v), want %q", got, err, want)
		}
	}
	expect("one\n")
	writeLog(t, file, "tw")
	writeLog(t, file, "o\n")
	expect("two\n")
	if err := os.WriteFile(file, []byte("new\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	expect("new\n")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestStatusOfNoCluster(t *testing.T) {
	c := Config{DataDir: t.TempDir()}
	if err := Status(t.Context(), c, io.Discard); !errors.Is(err, errNotRunning) {
		t.Errorf("no cluster: %v, want %v", err, errNotRunning)
	}
	unlock, err := c.lock()
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err := Status(t.Context(), c, io.Discard); err == nil || err.Error() != "the cluster is starting" {
		t.Errorf("a cluster that begins: %v", err)
	}
}

func TestStoragesAreToldWithoutSecrets(t *testing.T) {
	for url, want := range map[string]string{
		"file:///var/lib/skiff/store":                         "file:///var/lib/skiff/store",
		"postgres://me:secret@db:5432/skiff?password=secret2": "postgres://db:5432/skiff",
		"etcd://a:2379,b:2379":                                "etcd://a:2379,b:2379",
		"mysql://me:sec%ret@tcp(db)/skiff":                    "mysql://…",
	} {
		if got := withoutSecrets(url); got != want {
			t.Errorf("%s: got %s, want %s", url, got, want)
		}
	}
}

func TestWarnings(t *testing.T) {
	condition := func(kind corev1.NodeConditionType, status corev1.ConditionStatus) corev1.NodeCondition {
		return corev1.NodeCondition{Type: kind, Status: status, Message: "m"}
	}
	node := func(name string, conditions ...corev1.NodeCondition) corev1.Node {
		return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: conditions}}
	}
	a := answers{
		parts: []corev1.ComponentStatus{
			{ObjectMeta: metav1.ObjectMeta{Name: "scheduler"}, Conditions: []corev1.ComponentCondition{{Type: corev1.ComponentHealthy, Status: corev1.ConditionFalse, Message: "not running"}}},
			{ObjectMeta: metav1.ObjectMeta{Name: "etcd-0"}, Conditions: []corev1.ComponentCondition{{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue}}},
		},
		nodes: []corev1.Node{
			node("well", condition(corev1.NodeReady, corev1.ConditionTrue), condition(corev1.NodeDiskPressure, corev1.ConditionFalse)),
			node("full", condition(corev1.NodeReady, corev1.ConditionTrue), condition(corev1.NodeDiskPressure, corev1.ConditionTrue)),
			node("down", condition(corev1.NodeReady, corev1.ConditionFalse)),
			node("lost", condition(corev1.NodeReady, corev1.ConditionUnknown)),
		},
		pods: []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
			{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}},
			{Name: "d", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}},
		}}}},
	}
	want := []string{
		"scheduler is unhealthy: not running", "full has DiskPressure: m", "down NotReady: m", "lost does not report",
		"pod ns/p: container c waits: CrashLoopBackOff",
	}
	if got := a.warnings(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
