package cluster_test

import (
	"crypto/sha256"
	"encoding/hex"
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
	cmd := exec.Command("unshare", "--mount", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
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

// TestThingsTakenAway sees that a cluster stops without a trace after other programs have taken away, moved or
// changed what it made on the machine.
func TestThingsTakenAway(t *testing.T) {
	if !withOwnMounts(t) {
		return
	}
	for _, c := range []struct {
		name, script string
		killed       bool // rather than stopped
	}{
		{"links", `ip link delete sk$ID-1; ip link delete skiff$ID`, false},
		{"addresses and routes", `ip address flush dev skiff$ID; ip route del unreachable $CIDR`, false},
		{"rules of the node", `in_node iptables -F; in_node iptables -t nat -F; in_node iptables -t nat -X`, false},
		{"settings", `in_node sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.all.route_localnet=0`, false},
		{"the mount of the namespace", `umount $DIR/netns/*`, false},
		{"the mount of the namespace of a killed cluster", `umount $DIR/netns/*`, true},
		{"the mount of namespaces", `umount --lazy $DIR/netns`, false},
		{"processes moved to another cgroup", `
			for d in $(find /sys/fs/cgroup -maxdepth 2 -name skiff$ID); do
				for p in $(find $d -name cgroup.procs -exec cat {} + | sort -u); do echo $p > ${d%/skiff$ID}/cgroup.procs; done
			done`, false},
		{"files of the runtime", `rm -rf $DIR/nodes/node-1/run/containerd.sock $DIR/nodes/node-1/containerd.toml $DIR/nodes/node-1/node.json`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cluster := clustertest.New(t, 1)
			cluster.Start(t)
			cluster.Until(t, func(out string) bool { return strings.Contains(out, "Running") }, "get", "pods", "-A", "-o", "jsonpath={.items[*].status.phase}")
			sum := sha256.Sum256([]byte(cluster.DataDir))
			id := hex.EncodeToString(sum[:2])
			procs, err := exec.Command("sh", "-c", "find /sys/fs/cgroup -path '*/skiff"+id+"/*' -name cgroup.procs -exec cat {} +").Output()
			pids := strings.Fields(string(procs))
			if err != nil || len(pids) == 0 {
				t.Fatalf("no processes of the cluster: %v", err)
			}
			cmd := exec.Command("sh", "-c", `in_node() { nsenter --net=$(echo $DIR/netns/*) "$@"; }; `+c.script)
			cmd.Env = append(os.Environ(), "ID="+id, "DIR="+cluster.DataDir, "CIDR="+cluster.PodCIDR)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if c.killed {
				cluster.Kill()
				cluster.Down(t)
			} else {
				cluster.Stop(t)
			}
			for _, pid := range pids {
				if status, err := os.ReadFile("/proc/" + pid + "/status"); err == nil && !hasEnded(string(status)) {
					t.Errorf("process %s runs on:\n%s", pid, status)
				}
			}
			if traces := cluster.Traces(t); traces != "" {
				t.Errorf("left behind:\n%s", traces)
			}
		})
	}
}

// hasEnded tells of a process, by its status in /proc, whether it waits for its parent alone, which is whoever
// has adopted it when its shim was killed. A first thread that has ended says nothing of the others.
func hasEnded(status string) bool {
	return strings.Contains(status, "\nState:\tZ") && strings.Contains(status, "\nThreads:\t1\n")
}
