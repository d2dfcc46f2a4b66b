// Package oracletest starts the kube-apiserver of $SKIFF_TOOLS with an etcd, for tests that record what it answers.
package oracletest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
)

// Server is a kube-apiserver that runs until the end of a test.
type Server struct {
	Base   string
	Client *http.Client
	cmd    *exec.Cmd
	log    string
}

// Start starts a server that is ready. tokens are its users by bearer token; one of them is admin, of system:masters.
func Start(t *testing.T, tokens map[string]*user.DefaultInfo, flags ...string) *Server {
	t.Helper()
	dir := t.TempDir()
	var lines strings.Builder
	for token, u := range tokens {
		fmt.Fprintf(&lines, "%s,%s,%s,%q\n", token, u.Name, u.UID, strings.Join(u.Groups, ","))
	}
	users := filepath.Join(dir, "tokens")
	write(t, users, []byte(lines.String()))
	etcd, port := Etcd(t), freePort(t)
	s := &Server{Base: "https://127.0.0.1:" + port, log: filepath.Join(dir, "kube-apiserver.log"),
		Client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}}
	s.cmd = run(t, s.log, "kube-apiserver", append(needed(t, dir, etcd, port, flags), append([]string{"--token-auth-file", users}, flags...)...)...)
	s.wait(t)
	return s
}

// Stop ends the server before the test does.
func (s *Server) Stop(t *testing.T) {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait() // it says that it was interrupted
}

// Etcd starts an etcd that runs until the end of a test, and returns its URL.
func Etcd(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	url, peer := "http://127.0.0.1:"+freePort(t), "http://127.0.0.1:"+freePort(t)
	run(t, filepath.Join(dir, "etcd.log"), "etcd", "--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--listen-client-urls", url,
		"--advertise-client-urls", url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	return url
}

// Encode makes a file of what was recorded.
func Encode(t *testing.T, recorded any) string {
	t.Helper()
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(recorded); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// Refusal is what a server says that does not start with flags. It has the etcd at a URL, which some refusals come after.
func Refusal(t *testing.T, etcd string, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(tool(t, "kube-apiserver"), append(needed(t, dir, etcd, freePort(t), flags), flags...)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	stop := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	if err := cmd.Run(); err == nil {
		t.Fatal("it starts")
	}
	message, ok := lastError(said.String())
	if !ok {
		t.Fatalf("it does not say why it does not start: %s", said.String())
	}
	return message
}

// lastError finds the error that a program ended with in its log, where one of many lines is indented.
func lastError(log string) (string, bool) {
	_, rest, _ := strings.Cut(log, `"command failed" err=`)
	if lines, ok := strings.CutPrefix(rest, "<\n\t"); ok {
		message, _, found := strings.Cut(lines, "\n >")
		return strings.ReplaceAll(message, "\n\t", "\n"), found
	}
	quoted, err := strconv.QuotedPrefix(rest)
	if err != nil {
		return "", false
	}
	message, err := strconv.Unquote(quoted)
	return message, err == nil
}

// needed are flags without which a server does not start, beside those it is given.
func needed(t *testing.T, dir, etcd, port string, given []string) []string {
	key := filepath.Join(dir, "key")
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	flags := []string{"--etcd-servers", etcd, "--secure-port", port, "--bind-address", "127.0.0.1", "--advertise-address", "192.0.2.1",
		"--cert-dir", filepath.Join(dir, "certs"), "--service-cluster-ip-range", "10.96.0.0/16",
		"--service-account-key-file", key, "--service-account-signing-key-file", key, "--allow-privileged"}
	if !slices.Contains(given, "--service-account-issuer") { // of which there may be several
		flags = append(flags, "--service-account-issuer", "https://kubernetes.default.svc")
	}
	return flags
}

// wait waits until a server has made its first objects.
func (s *Server) wait(t *testing.T) {
	deadline := time.Now().Add(3 * time.Minute)
	for _, path := range []string{"/readyz", "/api/v1/namespaces/default", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/system:discovery",
		"/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical"} {
		for {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Base+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer admin")
			answer, err := s.Client.Do(r)
			if err == nil {
				answer.Body.Close()
				if answer.StatusCode == http.StatusOK {
					break
				}
			}
			if time.Now().After(deadline) {
				log, _ := os.ReadFile(s.log)
				t.Fatalf("kube-apiserver does not become ready: %v\n%s", err, log[max(0, len(log)-5000):])
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
}

func tool(t *testing.T, name string) string {
	tools := os.Getenv("SKIFF_TOOLS")
	if tools == "" {
		t.Fatal("SKIFF_TOOLS is not set: run this test with make oracle")
	}
	return filepath.Join(tools, name)
}

func run(t *testing.T, logTo, program string, args ...string) *exec.Cmd {
	log, err := os.Create(logTo)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(tool(t, program), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	return cmd
}

func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := strings.Cut(l.Addr().String(), ":")
	return port
}

func write(t *testing.T, path string, data []byte) {
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
