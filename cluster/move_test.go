package cluster_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend/databases"
	"github.com/skiff-k8s/skiff/cluster"
	"github.com/skiff-k8s/skiff/cluster/clustertest"
)

// containers are all containers of a cluster, and since when each runs.
func containers(t *testing.T, c *clustertest.Cluster, want int) []string {
	t.Helper()
	out := c.Until(t, func(out string) bool {
		return strings.Count(out, "containerd://") == want && !strings.Contains(out, "=\n")
	},
		"get", "pods", "-A", `-o=jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].containerID}={.status.containerStatuses[0].state.running.startedAt}{"\n"}{end}`)
	list := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(list)
	return list
}

// TestMoveStorage: the guestbook runs on a file, the program is killed, what is stored is copied to PostgreSQL, and
// the program is started on that. The same containers run on, and the cluster does what it is told.
func TestMoveStorage(t *testing.T) {
	images := exampleImages(t)
	c := clustertest.New(t, 1)
	c.Start(t)
	c.Import(t, images...)
	if out, err := c.Kubectl(t, "apply", "-f", "../examples/guestbook"); err != nil {
		t.Fatal(out)
	}
	const guestbook, dns = 6, 1
	before := containers(t, c, guestbook+dns)
	c.Kill()
	url := databases.Postgres(t)
	if out, err := exec.Command(c.Program, "storage", "copy", "file://"+filepath.Join(c.DataDir, "store"), url).CombinedOutput(); err != nil {
		t.Fatalf("skiff storage copy: %v\n%s", err, out)
	}
	c.Storage(url)
	c.Start(t)
	time.Sleep(3 * time.Second) // time enough to restart a container, were it so
	if after := containers(t, c, guestbook+dns); !slices.Equal(after, before) {
		t.Errorf("after the move there run\n%v\nand ran\n%v", after, before)
	}
	if out, err := c.Kubectl(t, "scale", "deployment", "frontend", "--replicas=4"); err != nil {
		t.Fatal(out)
	}
	more := containers(t, c, guestbook+dns+1)
	for _, one := range before {
		if !slices.Contains(more, one) {
			t.Errorf("after the Deployment was scaled %s is gone", one)
		}
	}
	c.Stop(t)
}

// TestKubeStorage: what a kube-apiserver keeps in its etcd is run by a cluster of Skiff's, and when that has ended, the
// kube-apiserver shows what became of it.
func TestKubeStorage(t *testing.T) {
	images := exampleImages(t)
	c := clustertest.New(t, 1)
	url := databases.Etcd(t)
	kube := newKube(t, c, strings.TrimPrefix(url, "etcd://"))
	kube.start(t)
	if out, err := kube.kubectl(t, "create", "deployment", "hello-node", "--image=localhost/skiff/examples/hello-node:v1", "--replicas=2"); err != nil {
		t.Fatal(out)
	}
	if out, err := kube.kubectl(t, "expose", "deployment", "hello-node", "--port=8080"); err != nil {
		t.Fatal(out)
	}
	const address = "-o=jsonpath={.metadata.uid} {.spec.clusterIP}"
	service, err := kube.kubectl(t, "get", "service", "hello-node", address)
	if err != nil {
		t.Fatal(service)
	}
	kube.stop()

	c.Storage(url)
	c.Start(t)
	c.Import(t, images[0])
	const pods = `-o=jsonpath={range .items[*]}{.metadata.uid} {.status.phase} {.status.containerStatuses[0].containerID}{"\n"}{end}`
	running := func(out string) bool { return strings.Count(out, " Running containerd://") == 2 }
	ran := c.Until(t, running, "get", "pods", "-l", "app=hello-node", pods)
	if out, err := c.Kubectl(t, "get", "service", "hello-node", address); err != nil || out != service {
		t.Errorf("the Service was %s, and is %s, %v", service, out, err)
	}
	c.Until(t, func(out string) bool { return strings.TrimSpace(out) == "2" }, "get", "deployment", "hello-node", "-o=jsonpath={.status.readyReplicas}")
	c.Kill()

	kube.start(t)
	if out, err := kube.kubectl(t, "get", "pods", "-l", "app=hello-node", pods); err != nil || out != ran {
		t.Errorf("kube-apiserver shows the pods\n%s%v\nSkiff ran\n%s", out, err, ran)
	}
	if out, err := kube.kubectl(t, "get", "service", "hello-node", address); err != nil || out != service {
		t.Errorf("the Service was %s, and is %s, %v", service, out, err)
	}
	if out, err := kube.kubectl(t, "scale", "deployment", "hello-node", "--replicas=1"); err != nil {
		t.Error(out)
	}
	kube.stop()

	c.Start(t)
	c.Until(t, func(out string) bool {
		return strings.Count(out, "containerd://") == 1 && strings.Contains(ran, strings.Fields(out)[0])
	},
		"get", "pods", "-l", "app=hello-node", pods)
	c.Stop(t)
}

// kube is a kube-apiserver that has the keys of a cluster of Skiff's.
type kube struct {
	address, dataDir, tools string
	args                    []string
	auth                    []string // for kubectl
	cmd                     *exec.Cmd
}

func newKube(t *testing.T, c *clustertest.Cluster, etcd string) *kube {
	t.Helper()
	folder := filepath.Join(c.DataDir, "pki")
	pki, err := cluster.OpenPKI(folder)
	if err != nil {
		t.Fatal(err)
	}
	_, err = pki.Server("kube-apiserver", "kube-apiserver", "127.0.0.1")
	if err == nil {
		_, err = pki.Client("kube-admin", "kubernetes-admin", "system:masters")
	}
	if err == nil {
		_, err = pki.Key("service-accounts")
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	cert, key := pki.Files("kube-apiserver")
	adminCert, adminKey := pki.Files("kube-admin")
	ca, tokens := filepath.Join(folder, "ca.crt"), filepath.Join(folder, "service-accounts.key")
	k := &kube{address: "https://127.0.0.1:" + port, dataDir: c.DataDir, tools: clustertest.Tools(t)}
	k.auth = []string{"--server", k.address, "--certificate-authority", ca, "--client-certificate", adminCert, "--client-key", adminKey}
	k.args = []string{"--etcd-servers", "http://" + etcd, "--bind-address", "127.0.0.1", "--secure-port", port, "--advertise-address", "192.0.2.1",
		"--cert-dir", t.TempDir(), "--tls-cert-file", cert, "--tls-private-key-file", key, "--client-ca-file", ca,
		"--authorization-mode", "Node,RBAC", "--service-cluster-ip-range", "10.97.0.0/16", "--allow-privileged",
		"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file", tokens, "--service-account-signing-key-file", tokens}
	t.Cleanup(k.stop)
	return k
}

// start returns when it serves.
func (k *kube) start(t *testing.T) {
	t.Helper()
	k.cmd = exec.Command(filepath.Join(k.tools, "kube-apiserver"), k.args...)
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		out, err := k.kubectl(t, "get", "--raw", "/readyz")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("kube-apiserver does not become ready: %s", out)
		}
	}
}

func (k *kube) stop() {
	if k.cmd == nil {
		return
	}
	_ = k.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(10*time.Second, func() { _ = k.cmd.Process.Kill() })
	defer timer.Stop()
	_ = k.cmd.Wait()
	k.cmd = nil
}

func (k *kube) kubectl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(filepath.Join(k.tools, "kubectl"), append(args, k.auth...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG=/dev/null", fmt.Sprint("HOME=", k.dataDir))
	out, err := cmd.CombinedOutput()
	return string(out), err
}
