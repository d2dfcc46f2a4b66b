//go:build programs

package programs

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// suites are those of controller-runtime that talk to an API server, by folder below pkg. Where specs leave something
// behind that others stumble on, each has a server of its own: specs says which. No spec can pass that counts service
// accounts, of which a cluster makes one, and none that fetches a kube-apiserver of another version.
var suites = []suite{
	{"builder", "", ""}, {"cache", "", "Should list serviceaccounts and find exactly one"}, {"client", "", ""},
	{"client/apiutil", "", "/aggregatedDiscovery=false"}, {"cluster", "", ""}, {"controller", "", ""}, {"controller/controllerutil", "", ""},
	{"envtest", "", ""}, {"handler", "", ""}, {"manager", "", ""}, {"manager/internal/integration", "warmup enabled", ""},
	{"manager/internal/integration", "warmup not enabled", ""}, {"metrics/filters", "", ""}, {"reconcile", "", ""}, {"source", "", ""}, {"webhook", "", ""},
}

type suite struct{ folder, specs, without string }

// program is where the suite is below the folder of programs.
func (s suite) program() string {
	return filepath.Join("controller-runtime", filepath.Base(s.folder)+".test")
}

// TestControllerRuntime runs the suites of controller-runtime, each on an API server of its own and next to nothing
// besides, which is what they are written for.
func TestControllerRuntime(t *testing.T) {
	dir := module(t, "controller-runtime", "sigs.k8s.io/controller-runtime")
	for _, suite := range suites {
		t.Run(strings.TrimSpace(suite.folder+" "+suite.specs), func(t *testing.T) {
			runSuite(t, suite.program(), filepath.Join(dir, "pkg", suite.folder), only(suite.specs, suite.without), "USE_EXISTING_CLUSTER=true", "KUBECONFIG="+serve(t))
		})
	}
}

// TestControllerRuntimeAssets runs them as they are run by those who wrote them, with a kube-apiserver and an etcd that
// envtest starts, which are Skiff. Only what fetches a kube-apiserver of another version cannot pass.
func TestControllerRuntimeAssets(t *testing.T) {
	dir := module(t, "controller-runtime", "sigs.k8s.io/controller-runtime")
	assets := writeAssets(t)
	t.Setenv("PATH", os.Getenv("SKIFF_TOOLS")+":"+os.Getenv("PATH")) // for kubectl
	done := make(map[string]bool)
	for _, suite := range suites {
		if done[suite.folder] {
			continue
		}
		done[suite.folder] = true
		t.Run(suite.folder, func(t *testing.T) {
			without := ""
			if suite.folder == "client/apiutil" {
				without = suite.without
			}
			runSuite(t, suite.program(), filepath.Join(dir, "pkg", suite.folder), only("", without), "KUBEBUILDER_ASSETS="+assets)
		})
	}
}

// writeAssets writes the programs that envtest starts into a folder.
func writeAssets(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "run", "github.com/skiff-k8s/skiff/cmd/skiff", "envtest-assets", dir).CombinedOutput(); err != nil {
		t.Fatalf("write the assets: %v\n%s", err, out)
	}
	return dir
}

// only has a suite run the specs whose names match, or all, without some.
func only(specs, without string) (args []string) {
	if specs != "" {
		args = append(args, "-ginkgo.focus="+specs)
	}
	if without != "" {
		args = append(args, "-ginkgo.skip="+without, "-test.skip="+without)
	}
	return args
}

// runSuite runs a suite in the folder of its sources.
func runSuite(t *testing.T, program, dir string, args []string, environment ...string) {
	t.Helper()
	args = append([]string{"-test.timeout=20m", "-test.v"}, args...)
	cmd := exec.CommandContext(t.Context(), filepath.Join(os.Getenv("SKIFF_PROGRAMS"), program), args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), environment...)
	out, err := cmd.CombinedOutput()
	text := colors.ReplaceAllString(string(out), "")
	ran := counted.FindAllString(text, -1)
	if err != nil {
		t.Errorf("%v: %q\n%s", err, ran, strings.Join(failures.FindAllString(text, -1), "\n"))
	}
	if len(ran) == 0 {
		t.Errorf("nothing ran:\n%s", text)
	}
	t.Log(ran)
}

var (
	colors   = regexp.MustCompile("\x1b\\[[0-9;]*m")
	counted  = regexp.MustCompile(`Ran \d+ of \d+ Specs|\d+ Passed \| \d+ Failed.*Skipped|(?m)^--- PASS: .*$`)
	failures = regexp.MustCompile(`(?m)^\s*\[(FAIL|PANICKED!|TIMEDOUT)\].*$|^\s*--- FAIL.*$`)
)

// serve starts an API server on a port of this machine and returns the path of a kubeconfig. Namespaces get their
// service account, as in any cluster.
func serve(t *testing.T) string {
	t.Helper()
	const token = "token-of-an-administrator"
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.StaticTokens = map[string]user.Info{token: &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}}
		o.Dial = new(net.Dialer).DialContext // webhooks are on this machine
	})
	accounts(t, kubernetes.NewForConfigOrDie(apiservertest.Config(s, "accounts")))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	own := httptest.NewTLSServer(nil) // for its certificate
	own.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l, &tls.Config{Certificates: own.TLS.Certificates}) }()
	t.Cleanup(func() { cancel(); <-done })
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: "https://" + l.Addr().String(),
		CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate().Raw})}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u", Namespace: "default"}
	config.CurrentContext = "x"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// accounts makes the service account of each namespace until the test ends.
func accounts(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	w, err := client.CoreV1().Namespaces().Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() { w.Stop(); running.Wait() })
	running.Go(func() {
		for e := range w.ResultChan() {
			if namespace, ok := e.Object.(*corev1.Namespace); ok && e.Type == watch.Added {
				account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
				if _, err := client.CoreV1().ServiceAccounts(namespace.Name).Create(context.Background(), account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
					t.Errorf("service account of %s: %v", namespace.Name, err)
				}
			}
		}
	})
}
