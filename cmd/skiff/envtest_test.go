package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// parentOf has this program start what is named in its arguments, and wait to be killed, as a suite is.
const parentOf = "SKIFF_TEST_PARENT"

// TestMain is what envtest starts when this program was started under the name of one of those.
func TestMain(m *testing.M) {
	if os.Getenv(parentOf) != "" {
		suite()
	}
	if _, ok := standIns[filepath.Base(os.Args[0])]; ok {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// suite starts the programs of which each argument has the path, with their arguments, joined by spaces, and waits.
func suite() {
	for _, line := range os.Args[1:] {
		words := strings.Split(line, " ")
		cmd := exec.Command(words[0], words[1:]...)
		cmd.Env = append(os.Environ(), parentOf+"=")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as envtest does
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		for !healthy(words) {
			time.Sleep(10 * time.Millisecond)
		}
	}
	fmt.Println("up")
	select {}
}

// healthy asks as envtest does.
func healthy(words []string) bool {
	var at string
	for _, word := range words {
		if address, ok := strings.CutPrefix(word, "--listen-client-urls="); ok {
			at = address + "/health"
		}
		if port, ok := strings.CutPrefix(word, "--secure-port="); ok {
			at = "https://127.0.0.1:" + port + "/healthz"
		}
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	answer, err := client.Get(at)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// assets writes them into a folder.
func assets(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "assets")
	if err := writeAssets(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// environment is what envtest prepares before it starts its programs.
type environment struct {
	etcd, apiserver string // command lines
	port            string
	config          *rest.Config
}

func prepare(t testing.TB, dir string) environment {
	t.Helper()
	data, certs := t.TempDir(), t.TempDir()
	etcd, port := free(t), free(t)
	keys := apiservertest.NewAuthority()
	certificate, key, err := keys.ServerFiles()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"apiserver.crt": certificate, "apiserver.key": key,
		"sa-signer.crt": keys.Certificate, "sa-signer.key": keys.Key, "client-cert-auth-ca.crt": keys.Certificate,
	} {
		if err := os.WriteFile(filepath.Join(certs, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e := environment{port: port}
	e.etcd = fmt.Sprintf("%s/etcd --advertise-client-urls=http://127.0.0.1:%s --data-dir=%s --listen-client-urls=http://127.0.0.1:%[2]s --listen-peer-urls=http://127.0.0.1:%[4]s --unsafe-no-fsync=true",
		dir, etcd, data, free(t))
	e.apiserver = strings.Join([]string{dir + "/kube-apiserver", "--allow-privileged=true", "--authorization-mode=RBAC", "--bind-address=127.0.0.1",
		"--cert-dir=" + certs, "--client-ca-file=" + certs + "/client-cert-auth-ca.crt", "--disable-admission-plugins=ServiceAccount",
		"--etcd-servers=http://127.0.0.1:" + etcd, "--secure-port=" + port, "--service-account-issuer=https://127.0.0.1:" + port + "/",
		"--service-account-key-file=" + certs + "/sa-signer.crt", "--service-account-signing-key-file=" + certs + "/sa-signer.key",
		"--service-cluster-ip-range=10.0.0.0/24"}, " ")
	own, ownKey, err := keys.Client("admin", "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	e.config = &rest.Config{Host: "https://127.0.0.1:" + port, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: keys.Certificate, CertData: own, KeyData: ownKey}}
	return e
}

func free(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// run starts a program until it is told to end, or the test ends, and waits until it is healthy.
func run(t testing.TB, line string) *exec.Cmd {
	t.Helper()
	cmd := begin(t, line)
	await(t, cmd)
	return cmd
}

func begin(t testing.TB, line string) *exec.Cmd {
	t.Helper()
	words := strings.Split(line, " ")
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill() // it may have ended
			_ = cmd.Wait()         // by that
		}
		if t.Failed() {
			t.Logf("%s:\n%s", words[0], &said)
		}
	})
	return cmd
}

// await waits until a program is healthy.
func await(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	for !healthy(cmd.Args) {
		if err := cmd.Process.Signal(syscall.Signal(0)); err != nil || t.Context().Err() != nil {
			t.Fatalf("%s is not up: %v", cmd, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// stop ends a program as envtest does.
func stop(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s, told to end: %v", cmd.Path, err)
	}
}

// TestEnvtestAssets: the programs take the flags of envtest, end when they are told to, and objects outlive the API server
// as long as its etcd's data directory is there.
func TestEnvtestAssets(t *testing.T) {
	e := prepare(t, assets(t))
	etcd := run(t, e.etcd)
	server := run(t, e.apiserver)
	client := kubernetes.NewForConfigOrDie(e.config)
	made, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{}); err != nil {
		t.Errorf("a pod without the admission plugin ServiceAccount: %v", err)
	}
	stop(t, server)
	server = run(t, e.apiserver)
	if got, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil || got.UID != made.UID {
		t.Errorf("after the API server was started again: %v %v, want %s", got, err, made.UID)
	}
	stop(t, server)
	stop(t, etcd)
}

// TestAssetsEndWithTheSuite: when the process that started them is killed, both programs end, and their ports are free.
func TestAssetsEndWithTheSuite(t *testing.T) {
	e := prepare(t, assets(t))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(self, e.etcd, e.apiserver)
	parent.Env = append(os.Environ(), parentOf+"=yes")
	heard, said, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer heard.Close()
	parent.Stdout = said
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	said.Close()
	line := make([]byte, 3)
	_, readErr := io.ReadFull(heard, line)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // it was killed
	if readErr != nil {
		t.Fatalf("the suite is not up: %q %v", line, readErr)
	}
	words := append(strings.Split(e.etcd, " "), strings.Split(e.apiserver, " ")...)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		left := running(t, words)
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			for _, pid := range left {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			t.Fatalf("they go on: %v", left)
		}
	}
	if l, err := net.Listen("tcp", "127.0.0.1:"+e.port); err != nil {
		t.Error(err)
	} else {
		l.Close()
	}
}

// running are the processes of the programs that the words name.
func running(t *testing.T, words []string) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		var pid int
		if _, err := fmt.Sscanf(entry.Name(), "%d", &pid); err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil {
			continue // it has ended
		}
		name, _, _ := strings.Cut(string(line), "\x00")
		for _, word := range words {
			if strings.HasPrefix(word, "/") && name == word {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// TestFlagsOfEnvtest: a flag that would have to change what Skiff does is refused, one that is about what it does not have
// is taken, and said.
func TestFlagsOfEnvtest(t *testing.T) {
	for _, test := range []struct{ program, flags, want string }{
		{"kube-apiserver", "--etcd-cafile=x", "unknown flag: --etcd-cafile (this kube-apiserver is Skiff, which takes the flags that --help lists)"},
		{"kube-apiserver", "--allow-privileged=false", "--allow-privileged=false: for Skiff it is always true"},
		{"kube-apiserver", "--etcd-prefix=/other", "--etcd-prefix=/other: for Skiff it is always /registry"},
		{"kube-apiserver", "--allow-privileged --watch-cache", "kube-apiserver: --watch-cache has no meaning for Skiff\n--etcd-servers must be specified"},
		{"kube-apiserver", "--etcd-servers=%", "--etcd-servers: "},
		{"etcd", "--cert-file=x", "unknown flag: --cert-file (this etcd is Skiff, which takes the flags that --help lists)"},
		{"etcd", "--log-level=error --listen-client-urls=https://127.0.0.1:1", "etcd: --log-level has no meaning for Skiff\n--listen-client-urls: https://127.0.0.1:1: only http is served"},
	} {
		cmd := called("/anywhere/" + test.program)
		var said bytes.Buffer
		cmd.SetErr(&said)
		cmd.SetArgs(strings.Split(test.flags, " "))
		ctx, cancel := context.WithCancel(t.Context())
		err := cmd.ExecuteContext(ctx)
		cancel()
		if err == nil || !strings.HasPrefix(said.String()+err.Error(), test.want) {
			t.Errorf("%s %s: %q %v, want %q", test.program, test.flags, &said, err, test.want)
		}
	}
}

// TestHelpOfAssets: envtest finds out from the help which flags there are.
func TestHelpOfAssets(t *testing.T) {
	for program, flags := range map[string]map[string]bool{"kube-apiserver": {"insecure-port": false, "secure-port": true}, "etcd": {"unsafe-no-fsync": true, "data-dir": true}} {
		cmd := called(program)
		var said bytes.Buffer
		cmd.SetOut(&said)
		cmd.SetArgs([]string{"--help"})
		if err := cmd.Execute(); err != nil {
			t.Error(err)
		}
		for flag, want := range flags {
			if got := strings.Contains(said.String(), "\n      --"+flag+" "); got != want {
				t.Errorf("%s --help lists --%s: %t, want %t", program, flag, got, want)
			}
		}
	}
}

// TestKubectlOfAssets: it is the one of PATH, and none if there is none, though the assets are in PATH.
func TestKubectlOfAssets(t *testing.T) {
	dir, other := assets(t), t.TempDir()
	kubectl := filepath.Join(dir, "kubectl")
	cmd := exec.Command(kubectl, "version", "--client")
	cmd.Env = []string{"PATH=" + dir}
	if out, err := cmd.CombinedOutput(); err == nil || string(out) != "kubectl: Skiff has no kubectl of its own, and there is none in PATH\n" {
		t.Errorf("without one: %q %v", out, err)
	}
	if err := os.WriteFile(filepath.Join(other, "kubectl"), []byte("#!/bin/sh\necho \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(kubectl, "version", "--client")
	cmd.Env = []string{"PATH=" + dir + ":" + other}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "version --client\n" {
		t.Errorf("with one: %q %v", out, err)
	}
}

// TestAssetsAreWrittenAgain: over those of before, but not over programs of others.
func TestAssetsAreWrittenAgain(t *testing.T) {
	dir := assets(t)
	if err := writeAssets(dir); err != nil {
		t.Fatal(err)
	}
	etcd := filepath.Join(dir, "etcd")
	if err := os.Remove(etcd); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(etcd, []byte("another"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeAssets(dir); err == nil || !strings.Contains(err.Error(), "is a program already") {
		t.Errorf("over a real etcd: %v", err)
	}
}
