// Package clustertest runs the product as a user does, for tests: the skiff
// program with nodes in namespaces, beside whatever else runs on the machine.
package clustertest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// Cluster is a running skiff.
type Cluster struct {
	Program, DataDir string
	// Port is that of the API on every address of this machine.
	Port int
	// PodCIDR and NodeCIDR are the ranges of pods and nodes; with both IP families
	// there are two, joined by a comma.
	PodCIDR, NodeCIDR string

	args    []string
	machine *nettest.Namespace // nil: this one
	cmd     *exec.Cmd
	out     lockedBuffer
}

// Tools is the folder with kubectl and what nodes need, as make test names it.
// Without it the test fails: there is no cluster without them.
func Tools(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("SKIFF_TOOLS")
	if dir == "" {
		t.Fatal("SKIFF_TOOLS is not set: run the tests with make test")
	}
	return dir
}

var (
	buildOnce sync.Once
	program   string
	buildErr  error
)

// Build builds the program once for all tests of a package.
func Build(t testing.TB) string {
	t.Helper()
	buildOnce.Do(func() {
		var dir string
		if dir, buildErr = os.MkdirTemp("", "skiff-test-"); buildErr != nil {
			return
		}
		program = filepath.Join(dir, "skiff")
		out, err := exec.Command("go", "build", "-o", program, "github.com/skiff-k8s/skiff/cmd/skiff").CombinedOutput()
		if err != nil {
			buildErr = fmt.Errorf("build skiff: %w\n%s", err, out)
		}
	})
	if buildErr != nil {
		t.Fatal(buildErr)
	}
	return program
}

// New describes a cluster of isolated nodes with a data directory and ranges of
// its own; Start starts it. What it leaves on the machine, should the test fail
// to stop it, is cleared away in the end.
func New(t testing.TB, nodes int) *Cluster {
	t.Helper()
	return NewOf(t, nodes, corev1.IPv4Protocol)
}

// NewOf is New with a choice of IP families, the primary one first.
func NewOf(t testing.TB, nodes int, families ...corev1.IPFamily) *Cluster {
	t.Helper()
	if os.Getuid() != 0 && nodes > 0 {
		t.Fatal("nodes need root, as make test has")
	}
	subnet := claimSubnet(t)
	c := &Cluster{Program: Build(t), Port: firstPort + subnet}
	// Not t.TempDir: its path is too long for the sockets below it.
	dir, err := os.MkdirTemp("", "skiff-")
	if err != nil {
		t.Fatal(err)
	}
	c.DataDir = dir
	var pods, services, nodeRanges []string
	for _, f := range families {
		if f == corev1.IPv6Protocol {
			pods, services = append(pods, fmt.Sprintf("fd00:10:%d::/56", subnet)), append(services, "fd00:10:97::/112")
			nodeRanges = append(nodeRanges, fmt.Sprintf("fd00:172:%d::/64", subnet))
			continue
		}
		pods, services = append(pods, fmt.Sprintf("10.%d.0.0/16", subnet)), append(services, "10.97.0.0/16")
		nodeRanges = append(nodeRanges, nodeCIDR(subnet))
	}
	c.PodCIDR, c.NodeCIDR = strings.Join(pods, ","), strings.Join(nodeRanges, ",")
	c.args = []string{
		"up", "--isolated", "--data-dir", dir, "--tools", Tools(t), "--nodes", fmt.Sprint(nodes),
		"--listen", fmt.Sprintf("0.0.0.0:%d", c.Port),
		"--pod-cidr", c.PodCIDR,
		"--service-cidr", strings.Join(services, ","),
		"--node-cidr", c.NodeCIDR,
	}
	t.Cleanup(func() {
		if c.cmd != nil {
			c.Kill()
		}
		c.Down(t)
		if t.Failed() {
			c.tell(t)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("something is still mounted or used: %v", err)
		}
	})
	return c
}

// Start starts the program and returns when the cluster is complete.
func (c *Cluster) Start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(c.Program, c.args...)
	cmd.Stderr = &c.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.on(t, cmd.Start); err != nil {
		t.Fatal(err)
	}
	c.cmd = cmd
	up := make(chan bool, 1)
	go func() {
		for lines := bufio.NewScanner(io.TeeReader(out, &c.out)); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "The cluster is up") {
				up <- true
			}
		}
		up <- false
	}()
	if !<-up {
		_ = cmd.Wait()
		c.cmd = nil
		t.Fatalf("skiff %s ended:\n%s", strings.Join(c.args, " "), c.out.String())
	}
}

// With has the next start take further arguments.
func (c *Cluster) With(args ...string) { c.args = append(c.args, args...) }

// On has the cluster run on a machine whose network is a namespace, with the first node on that machine itself.
func (c *Cluster) On(machine *nettest.Namespace) {
	c.machine = machine
	c.args = slices.DeleteFunc(c.args, func(arg string) bool { return arg == "--isolated" })
}

// on calls f on the cluster's machine. f must not call t.FailNow.
func (c *Cluster) on(t testing.TB, f func() error) (err error) {
	t.Helper()
	if c.machine == nil {
		return f()
	}
	c.machine.Do(t, func() { err = f() })
	return err
}

// output runs a command on the cluster's machine and returns what it prints.
func (c *Cluster) output(t testing.TB, cmd *exec.Cmd) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := c.on(t, cmd.Run)
	return out.String(), err
}

// Storage has the next start use the storage with a URL.
func (c *Cluster) Storage(url string) { c.args = append(c.args, "--storage", url) }

// Traces lists what a cluster with a data directory has on the machine:
// processes, mounts (those of namespaces among them), links, routes and cgroups.
func Traces(t testing.TB, dataDir, podCIDR string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(dataDir)) // as package cluster names its things
	script := `
		ip -o link | awk -F': ' '{print "link", $2}' | grep -E "skiff$ID|sk$ID-"
		for family in -4 -6; do ip $family route show table all; done | grep -E "unreachable ($CIDR)|skiff$ID"
		grep -o " $DIR[^ ]*" /proc/mounts
		find /sys/fs/cgroup -maxdepth 2 -name "skiff$ID"
		pgrep -af "$DIR" | grep -v pgrep
		true`
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(os.Environ(), "ID="+hex.EncodeToString(sum[:2]), "DIR="+dataDir, "CIDR="+strings.ReplaceAll(podCIDR, ",", "|"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("look for traces: %v\n%s", err, out)
	}
	return string(out)
}

// Traces lists what the cluster has on the machine.
func (c *Cluster) Traces(t testing.TB) string {
	t.Helper()
	return Traces(t, c.DataDir, c.PodCIDR)
}

// Stop ends the cluster as Ctrl-C does.
func (c *Cluster) Stop(t testing.TB) {
	t.Helper()
	_ = c.cmd.Process.Signal(os.Interrupt)
	err := c.cmd.Wait()
	c.cmd = nil
	if err != nil {
		t.Errorf("skiff up: %v\n%s", err, c.out.String())
	}
}

// Down clears away what the program left when it was killed.
func (c *Cluster) Down(t testing.TB) {
	t.Helper()
	if out, err := c.output(t, exec.Command(c.Program, "down", "--data-dir", c.DataDir, "--pod-cidr", c.PodCIDR)); err != nil {
		t.Errorf("skiff down: %v\n%s", err, out)
	}
}

// Kill ends the program with SIGKILL; its containers run on.
func (c *Cluster) Kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	c.cmd = nil
}

// Said reports whether the program has said something by now.
func (c *Cluster) Said(text string) bool { return strings.Contains(c.out.String(), text) }

// PID is that of the program.
func (c *Cluster) PID() int { return c.cmd.Process.Pid }

// Kubeconfig is the administrator's.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.DataDir, "admin.kubeconfig") }

// Kubectl runs stock kubectl as the administrator and returns what it prints.
func (c *Cluster) Kubectl(t testing.TB, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(filepath.Join(Tools(t), "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig(), "HOME="+c.DataDir)
	return c.output(t, cmd)
}

// Apply has kubectl apply a manifest.
func (c *Cluster) Apply(t testing.TB, manifest string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl(t, "apply", "-f", file); err != nil {
		t.Fatalf("kubectl apply: %s", out)
	}
}

// Until runs kubectl until what it prints satisfies done, for at most a minute
// and a half, and returns that.
func (c *Cluster) Until(t testing.TB, done func(out string) bool, args ...string) string {
	t.Helper()
	var last string
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		out, err := c.Kubectl(t, args...)
		if last = out; err == nil && done(out) {
			return out
		}
	}
	t.Fatalf("kubectl %s: not what was waited for:\n%s", strings.Join(args, " "), last)
	return ""
}

// Import loads image archives into every node.
func (c *Cluster) Import(t testing.TB, archives ...string) {
	t.Helper()
	args := append([]string{"image", "import", "--data-dir", c.DataDir, "--tools", Tools(t)}, archives...)
	if out, err := c.output(t, exec.Command(c.Program, args...)); err != nil {
		t.Fatalf("skiff image import: %v\n%s", err, out)
	}
}

// tell writes down what helps to understand a failure.
func (c *Cluster) tell(t testing.TB) {
	t.Logf("the program said:\n%s", c.out.String())
	logs, _ := filepath.Glob(filepath.Join(c.DataDir, "nodes", "*", "node.log"))
	for _, file := range append(logs, filepath.Join(c.DataDir, "skiff.log")) {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		t.Logf("%s ends with:\n%s", file, strings.Join(lines[max(0, len(lines)-20):], "\n"))
	}
}

// firstPort is below the ports that the kernel hands out by itself.
const firstPort = 16400

// nodeCIDR is the range of nodes of the n-th subnet.
func nodeCIDR(n int) string { return fmt.Sprintf("172.31.%d.0/24", n) }

// claimSubnet returns a number that no other test has, for its addresses and
// its port; other packages' tests run beside. The claim is a name in the abstract
// namespace of unix(7), which goes with the process at the latest. The links of a
// test that was killed outlive it, and keep its number.
func claimSubnet(t testing.TB) int {
	t.Helper()
	for n := 100; n < 200; n++ {
		claim, err := net.Listen("unix", fmt.Sprintf("@skiff-test-%d", n))
		if err != nil {
			continue
		}
		port, err := net.Listen("tcp", fmt.Sprintf(":%d", firstPort+n))
		if err != nil {
			claim.Close()
			continue
		}
		port.Close()
		if used, err := exec.Command("ip", "-o", "address", "show", "to", nodeCIDR(n)).Output(); err != nil || len(used) > 0 {
			claim.Close()
			continue
		}
		t.Cleanup(func() { claim.Close() })
		return n
	}
	t.Fatal("a hundred other clusters run beside this test, or were killed and not cleared away")
	return 0
}

// lockedBuffer is written by several goroutines.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
