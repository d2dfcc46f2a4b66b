package aggregate_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/cluster/clustertest"
)

// sample runs the sample API server of Kubernetes behind Service default/mirror.
func (c *cluster) sample(t *testing.T) (kubeconfig string) {
	t.Helper()
	dir, tools := t.TempDir(), clustertest.Tools(t)
	kubeconfig = filepath.Join(dir, "kubeconfig")
	_, serving, err := net.SplitHostPort(c.listen(t, &tls.Config{Certificates: []tls.Certificate{*c.issue(t, "server", "localhost")}}))
	if err != nil {
		t.Fatal(err)
	}
	write(t, kubeconfig, []byte(fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "x",
		"clusters": [{"name": "x", "cluster": {"server": "https://localhost:%s", "certificate-authority-data": %q}}], "users": [{"name": "x", "user": {"token": %q}}],
		"contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}]}`, serving, base64.StdEncoding.EncodeToString(c.pem), token)))
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writePair(t, c.issue(t, "mirror", "mirror.default.svc"), cert, key)
	etcd, peer, port := "http://"+free(t), "http://"+free(t), free(t)
	run(t, filepath.Join(dir, "etcd.log"), filepath.Join(tools, "etcd"), "--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--listen-client-urls", etcd,
		"--advertise-client-urls", etcd, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	_, number, err := net.SplitHostPort(port)
	if err != nil {
		t.Fatal(err)
	}
	run(t, filepath.Join(dir, "sample.log"), filepath.Join(tools, "sample-apiserver"), "--etcd-servers", etcd, "--bind-address", "127.0.0.1", "--secure-port", number,
		"--tls-cert-file", cert, "--tls-private-key-file", key, "--kubeconfig", kubeconfig, "--authentication-kubeconfig", kubeconfig,
		"--authorization-kubeconfig", kubeconfig)
	c.hosts.Store(address+":9443", port)
	c.service(t)
	return kubeconfig
}

// run starts a program that ends with the test. If the test fails it shows what
// the program wrote last.
func run(t *testing.T, log, program string, args ...string) {
	t.Helper()
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		out.Close()
		if text, err := os.ReadFile(log); err == nil && t.Failed() {
			t.Logf("%s: … %s", program, text[max(0, len(text)-4000):])
		}
	})
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func write(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func writePair(t *testing.T, pair *tls.Certificate, cert, key string) {
	t.Helper()
	write(t, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}))
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// TestSampleAPIServer: the sample API server works behind ours, for clients that
// find out what there is.
func TestSampleAPIServer(t *testing.T) {
	c := start(t)
	kubeconfig := c.sample(t)
	for _, version := range []string{"v1alpha1", "v1beta1"} {
		c.register(t, &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: version + ".wardle.example.com"}, Spec: apiregistrationv1.APIServiceSpec{
			Group: "wardle.example.com", Version: version, GroupPriorityMinimum: 2000, VersionPriority: 200, CABundle: c.pem,
			Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "mirror"},
		}})
	}
	c.await(t, "v1alpha1.wardle.example.com", "Passed")
	c.await(t, "v1beta1.wardle.example.com", "Passed")
	c.seen(t, "/apis", all, func(_ int, body string) bool { return strings.Contains(body, `"flunders"`) })
	c.seen(t, "/openapi/v2", nil, func(_ int, body string) bool {
		return strings.Contains(body, "/apis/wardle.example.com/v1alpha1/") && strings.Contains(body, "/apis/wardle.example.com/v1beta1/")
	})
	kubectl := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(clustertest.Tools(t), "kubectl"), append([]string{"--kubeconfig", kubeconfig, "--cache-dir", t.TempDir()}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("kubectl %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	out := kubectl("get", "apiservices")
	for _, want := range []string{`(?m)^v1alpha1\.wardle\.example\.com +default/mirror +True `, `(?m)^v1\.apps +Local +True `} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("kubectl get apiservices:\n%s", out)
		}
	}
	if out := kubectl("explain", "flunders.spec"); !strings.Contains(out, "reference") {
		t.Errorf("kubectl explain:\n%s", out)
	}

	flunders := dynamic.NewForConfigOrDie(apiservertest.Config(c.Server, "admin")).
		Resource(schema.GroupVersionResource{Group: "wardle.example.com", Version: "v1alpha1", Resource: "flunders"}).Namespace("default")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	events, err := flunders.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	next := func(want watch.EventType) {
		t.Helper()
		if e := <-events.ResultChan(); e.Type != want || e.Object.(*unstructured.Unstructured).GetName() != "one" {
			t.Errorf("got %s of %v, want %s", e.Type, e.Object, want)
		}
	}
	file := filepath.Join(t.TempDir(), "flunder.json")
	write(t, file, []byte(`{"apiVersion": "wardle.example.com/v1alpha1", "kind": "Flunder", "metadata": {"name": "one", "labels": {"sample": "yes"}}}`))
	kubectl("apply", "-n", "default", "-f", file)
	next(watch.Added)
	if list, err := flunders.List(ctx, metav1.ListOptions{LabelSelector: "sample=yes"}); err != nil || len(list.Items) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	if out := kubectl("get", "flunders", "-n", "default", "-o", "name"); out != "flunder.wardle.example.com/one\n" {
		t.Errorf("kubectl get flunders: %s", out)
	}
	kubectl("patch", "flunder", "one", "-n", "default", "--type=merge", "-p", `{"metadata":{"labels":{"more":"yes"}}}`)
	next(watch.Modified)
	if err := flunders.Delete(ctx, "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	next(watch.Deleted)
	// It believes who asks, and asks this server what they may do.
	c.http.Transport = apiservertest.Config(c.Server, "joe", "nobody").Transport
	if code, body := c.do(t, http.MethodGet, "/apis/wardle.example.com/v1alpha1/flunders", "", nil); code != http.StatusForbidden {
		t.Errorf("joe: %d %s", code, body)
	}
}
