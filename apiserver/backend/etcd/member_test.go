package etcd_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/skiff-k8s/skiff/apiserver/backend/etcd"
)

// member is an etcd process of its own, or one of several.
type member struct {
	client, peer string // URLs
	tls          *tls.Config
	args         []string
	log          string
	process      *os.Process
}

// cluster starts n members that end with the test.
func cluster(t testing.TB, n int, args ...string) []*member {
	t.Helper()
	return clusterOver(t, nil, n, args...)
}

// clusterOver is cluster whose clients speak TLS, unless config is nil.
func clusterOver(t testing.TB, config *tls.Config, n int, args ...string) []*member {
	t.Helper()
	tools := os.Getenv("SKIFF_TOOLS")
	if tools == "" {
		t.Fatal("SKIFF_TOOLS is not set: run the tests with make test")
	}
	members := make([]*member, n)
	var initial []string
	for i := range members {
		members[i] = &member{client: freeURL(t), peer: freeURL(t), tls: config}
		if config != nil {
			members[i].client = strings.Replace(members[i].client, "http:", "https:", 1)
		}
		initial = append(initial, fmt.Sprintf("m%d=%s", i, members[i].peer))
	}
	dir := t.TempDir()
	for i, m := range members {
		m.log = filepath.Join(dir, fmt.Sprintf("m%d.log", i))
		m.args = append([]string{filepath.Join(tools, "etcd"), "--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(dir, fmt.Sprint("m", i)),
			"--listen-client-urls", m.client, "--advertise-client-urls", m.client,
			"--listen-peer-urls", m.peer, "--initial-advertise-peer-urls", m.peer, "--initial-cluster", strings.Join(initial, ",")}, args...)
		m.start(t)
		t.Cleanup(func() { m.kill(t) })
	}
	for _, m := range members {
		m.wait(t)
	}
	return members
}

// address is the storage URL of members.
func address(members []*member) string {
	var hosts []string
	for _, m := range members {
		_, host, _ := strings.Cut(m.client, "://")
		hosts = append(hosts, host)
	}
	return "etcd://" + strings.Join(hosts, ",")
}

func (m *member) start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(m.args[0], m.args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.process = cmd.Process
}

// wait returns when the member answers, which needs most of the others.
func (m *member) wait(t testing.TB) {
	t.Helper()
	client := raw(t, m)
	defer client.Close()
	for deadline := time.Now().Add(time.Minute); ; {
		_, err := client.Get(t.Context(), "x")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(m.log)
			t.Fatalf("etcd does not answer: %v\n%s", err, said)
		}
	}
}

// kill ends the process, if there is one, without a warning.
func (m *member) kill(t testing.TB) {
	t.Helper()
	if m.process == nil {
		return
	}
	_ = m.process.Kill()
	_, _ = m.process.Wait()
	m.process = nil
}

func (m *member) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := m.process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func freeURL(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// raw is a client of one member that knows nothing of Skiff.
func raw(t testing.TB, m *member) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{m.client}, TLS: m.tls, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func open(t testing.TB, members ...*member) *etcd.Backend {
	t.Helper()
	c, err := etcd.Parse(address(members), func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	b, err := etcd.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
