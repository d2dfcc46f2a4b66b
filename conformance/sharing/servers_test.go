package sharing_test

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend/engines"
	"github.com/skiff-k8s/skiff/cluster"
	"github.com/skiff-k8s/skiff/cluster/clustertest"
)

// shared is an etcd and the servers on it.
type shared struct {
	dir, etcd string // the address of etcd, host:port
	files     files
}

// server is one of those that share the etcd.
type server struct {
	name    string
	dynamic dynamic.Interface
	typed   kubernetes.Interface
}

// files are what servers of one cluster have in common.
type files struct {
	ca, serving, servingKey, tokens string
	tokenKey, caPEM                 []byte
	admin                           cluster.Pair
}

// start starts an etcd that ends with the test.
func start(t *testing.T) *shared {
	t.Helper()
	s := &shared{dir: t.TempDir(), etcd: freeAddress(t)}
	client, peer := "http://"+s.etcd, "http://"+freeAddress(t)
	s.run(t, "etcd", filepath.Join(clustertest.Tools(t), "etcd"), "--data-dir", filepath.Join(s.dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	s.files = newFiles(t, filepath.Join(s.dir, "pki"))
	return s
}

func newFiles(t *testing.T, folder string) files {
	t.Helper()
	pki, err := cluster.OpenPKI(folder)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Server("server", "kubernetes", "127.0.0.1", "127.0.0.2"); err != nil {
		t.Fatal(err)
	}
	f := files{ca: filepath.Join(folder, "ca.crt"), tokens: filepath.Join(folder, "tokens.key"), caPEM: pki.CA()}
	f.serving, f.servingKey = pki.Files("server")
	if f.tokenKey, err = pki.Key("tokens"); err != nil {
		t.Fatal(err)
	}
	if f.admin, err = pki.Client("admin", "admin", "system:masters"); err != nil {
		t.Fatal(err)
	}
	return f
}

// kube starts a kube-apiserver; stop ends it, as the end of the test does.
func (s *shared) kube(t *testing.T, advertise string) (_ *server, stop func()) {
	t.Helper()
	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	program := s.run(t, "kube-apiserver", filepath.Join(clustertest.Tools(t), "kube-apiserver"), "--etcd-servers", "http://"+s.etcd, "--secure-port", port,
		"--bind-address", "127.0.0.1", "--advertise-address", advertise, "--cert-dir", filepath.Join(s.dir, "certs"),
		"--tls-cert-file", s.files.serving, "--tls-private-key-file", s.files.servingKey, "--client-ca-file", s.files.ca,
		"--authorization-mode", "Node,RBAC", "--service-cluster-ip-range", "10.96.0.0/16",
		"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file", s.files.tokens, "--service-account-signing-key-file", s.files.tokens, "--allow-privileged")
	k := clients(t, "kube-apiserver", s.files.config(address))
	s.ready(t, k)
	return k, program.stop
}

// ready waits until a server says that it is.
func (s *shared) ready(t *testing.T, on *server) {
	t.Helper()
	s.eventually(t, on.name+" is ready", func() error {
		_, err := on.typed.CoreV1().RESTClient().Get().AbsPath("/readyz").DoRaw(t.Context())
		return err
	})
}

// config reaches the server at an address as an administrator.
func (f files) config(address string) *rest.Config {
	return &rest.Config{Host: "https://" + address, QPS: -1, TLSClientConfig: rest.TLSClientConfig{
		CAData: f.caPEM, CertData: f.admin.CertPEM, KeyData: f.admin.KeyPEM}}
}

// skiff starts a Skiff in this process, which ends with the test.
func (s *shared) skiff(t *testing.T, advertise string) *server {
	t.Helper()
	backend, err := engines.Open("etcd://" + s.etcd)
	if err != nil {
		t.Fatal(err)
	}
	running := apiservertest.Start(t, func(o *apiserver.Options) {
		o.Backend, o.ClientCA, o.ServiceAccountKey = backend, s.files.caPEM, s.files.tokenKey
		o.Advertise = netip.AddrPortFrom(netip.MustParseAddr(advertise), 6443)
	})
	return clients(t, "skiff", apiservertest.Config(running, "admin"))
}

func clients(t *testing.T, name string, c *rest.Config) *server {
	t.Helper()
	typed, err := kubernetes.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	untyped, err := dynamic.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return &server{name, untyped, typed}
}

// raw is a client of etcd that knows nothing of either server.
func (s *shared) raw(t *testing.T) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + s.etcd}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// program is one that runs.
type program struct {
	cmd   *exec.Cmd
	ended bool
}

// run starts a program that ends with the test, if it has not before.
func (s *shared) run(t *testing.T, name, path string, args ...string) *program {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &program{cmd: cmd}
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			file := filepath.Join(os.TempDir(), "skiff-sharing-"+name+".log")
			t.Logf("what %s said is in %s", name, file)
			_ = os.WriteFile(file, out.Bytes(), 0o600)
		}
	})
	return p
}

// stop ends the program as an operator does.
func (p *program) stop() { p.end(syscall.SIGTERM) }

// kill ends it at once.
func (p *program) kill() { p.end(syscall.SIGKILL) }

func (p *program) end(by syscall.Signal) {
	if p.ended {
		return
	}
	p.ended = true
	_ = p.cmd.Process.Signal(by)
	timer := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	_ = p.cmd.Wait()
}

// eventually waits until do gives no error.
func (s *shared) eventually(t *testing.T, what string, do func() error) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, context.Cause(t.Context()))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
