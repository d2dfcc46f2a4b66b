package cluster_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/cluster/clustertest"
)

// withOwnMounts runs the calling test again as a process whose mounts are its own, and reports whether this
// is that process.
func withOwnMounts(t *testing.T) bool {
	t.Helper()
	const mark = "SKIFF_TEST_OWN_MOUNTS"
	if os.Getenv(mark) != "" {
		return true
	}
	cmd := exec.Command("unshare", "--mount", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// TestMountsOfOthers sees that a cluster stops without a trace, whatever other programs did to the mounts of
// the machine meanwhile.
func TestMountsOfOthers(t *testing.T) {
	if !withOwnMounts(t) {
		return
	}
	c := clustertest.New(t, 1)
	c.Start(t)
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
	}
	pods := "{.items[*].status.phase}"
	c.Until(t, func(out string) bool { return strings.Contains(out, "Running") }, "get", "pods", "-A", "-o", "jsonpath="+pods)

	// The first of these binds /run/netns over itself.
	other := "other-" + filepath.Base(c.DataDir)
	run("ip", "netns", "add", other)
	t.Cleanup(func() { run("ip", "netns", "delete", other) })
	// As chroots, backups and installers do.
	copied := t.TempDir()
	run("mount", "--rbind", filepath.Dir(c.DataDir), copied)
	t.Cleanup(func() { run("umount", "--recursive", copied) })
	run("mount", "--make-rshared", "/")

	c.Stop(t)
	if traces := c.Traces(t); traces != "" {
		t.Errorf("left behind:\n%s", traces)
	}
	if entries, err := os.ReadDir(filepath.Join(c.DataDir, "netns")); !os.IsNotExist(err) {
		t.Errorf("namespaces left behind: %v, %v", entries, err)
	}
}
