//go:build oracle

package encryption

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/encryption/kmstest"
)

var record = flag.Bool("record", false, "write what kube-apiserver stored to testdata/kubernetes.json")

// real is a kube-apiserver with an etcd.
type real struct {
	t              *testing.T
	api, etcd, dir string
	client         *http.Client
	args           []string
	server         *exec.Cmd
}

func startReal(t *testing.T, file string) *real {
	tools := os.Getenv("SKIFF_TOOLS")
	if tools == "" {
		t.Fatal("SKIFF_TOOLS is not set: run this test with make oracle")
	}
	r := &real{t: t, dir: t.TempDir(), client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}}
	ports := []string{freePort(t), freePort(t), freePort(t)}
	r.etcd, r.api = "http://127.0.0.1:"+ports[0], "https://127.0.0.1:"+ports[2]
	peer := "http://127.0.0.1:" + ports[1]
	r.start("etcd", filepath.Join(tools, "etcd"), "--data-dir", filepath.Join(r.dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", r.etcd, "--advertise-client-urls", r.etcd, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	key, tokens := filepath.Join(r.dir, "key"), filepath.Join(r.dir, "tokens")
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
	write(t, tokens, `secret,admin,admin,"system:masters"`)
	r.args = []string{"kube-apiserver", filepath.Join(tools, "kube-apiserver"), "--etcd-servers", r.etcd, "--secure-port", ports[2],
		"--bind-address", "127.0.0.1", "--advertise-address", "192.0.2.1", "--cert-dir", filepath.Join(r.dir, "certs"),
		"--token-auth-file", tokens, "--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.96.0.0/16",
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", key, "--service-account-signing-key-file", key,
		"--encryption-provider-config", file}
	r.restart()
	return r
}

// restart starts kube-apiserver, after it has ended, and waits until it is ready.
func (r *real) restart() { r.restartUntil("/readyz?exclude=kms-providers") }

// restartUntil is restart, and waits until a path is 200.
func (r *real) restartUntil(path string) {
	if r.server != nil {
		_ = r.server.Process.Kill()
		_ = r.server.Wait()
	}
	r.server = r.start(r.args[0], r.args[1], r.args[2:]...)
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if code, _ := r.do("GET", path, ""); code == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(r.dir, "kube-apiserver.log"))
			r.t.Fatalf("kube-apiserver does not become ready: %s", log[max(0, len(log)-3000):])
		}
	}
}

func (r *real) start(name, program string, args ...string) *exec.Cmd {
	log, err := os.Create(filepath.Join(r.dir, name+".log"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
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

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// do asks kube-apiserver.
func (r *real) do(method, path, body string) (int, string) {
	q, err := http.NewRequestWithContext(r.t.Context(), method, r.api+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer secret")
	q.Header.Set("Content-Type", "application/json")
	a, err := r.client.Do(q)
	if err != nil {
		return 0, err.Error()
	}
	defer a.Body.Close()
	answer, _ := io.ReadAll(a.Body)
	return a.StatusCode, string(answer)
}

func (r *real) must(method, path, body string) string {
	r.t.Helper()
	code, answer := r.do(method, path, body)
	if code/100 != 2 {
		r.t.Fatalf("%s %s: %d %s", method, path, code, answer)
	}
	return answer
}

// kv asks etcd.
func (r *real) kv(call string, question map[string][]byte) (answer struct{ Kvs []struct{ Value []byte } }) {
	r.t.Helper()
	body, err := json.Marshal(question)
	if err != nil {
		r.t.Fatal(err)
	}
	a, err := http.Post(r.etcd+"/v3/kv/"+call, "application/json", bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	defer a.Body.Close()
	if err := json.NewDecoder(a.Body).Decode(&answer); err != nil || a.StatusCode != http.StatusOK {
		r.t.Fatalf("etcd: %s, %v", a.Status, err)
	}
	return answer
}

func (r *real) get(key string) []byte {
	r.t.Helper()
	found := r.kv("range", map[string][]byte{"key": []byte(key)}).Kvs
	if len(found) != 1 {
		r.t.Fatalf("%d values of %s", len(found), key)
	}
	return found[0].Value
}

func (r *real) put(key string, value []byte) {
	r.t.Helper()
	r.kv("put", map[string][]byte{"key": []byte(key), "value": value})
}

// interchange are objects of the providers of testdata/all.yaml.
var interchange = []struct{ group, plural, api, kind, prefix string }{
	{"", "secrets", "/api/v1", "Secret", "k8s:enc:aesgcm:v1:key1:"},
	{"", "configmaps", "/api/v1", "ConfigMap", "k8s:enc:aescbc:v1:key1:"},
	{"", "serviceaccounts", "/api/v1", "ServiceAccount", "k8s:enc:secretbox:v1:key1:"},
	{"", "endpoints", "/api/v1", "Endpoints", "k8s:enc:kms:v2:vault:"},
	{"apps", "deployments", "", "", ""}, // by a wildcard of its group; none is made
	{"example.com", "gadgets", "/apis/example.com/v1", "Gadget", "k8s:enc:aesgcm:v1:key2:"},
}

// What kube-apiserver stored is read here, and what is encrypted here it reads.
// With -record, the values are kept for TestWhatKubernetesStored.
func TestInterchange(t *testing.T) {
	plugin := kmstest.New(t)
	plugin.Process(t)
	file := allFile(t, plugin.Socket)
	r := startReal(t, file)
	ours, err := Open(t.Context(), Config{File: file})
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	r.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", `{"metadata":{"name":"gadgets.example.com"},"spec":{"group":"example.com",
		"scope":"Namespaced","names":{"plural":"gadgets","kind":"Gadget"},"versions":[{"name":"v1","served":true,"storage":true,
		"schema":{"openAPIV3Schema":{"type":"object"}}}]}}`)
	for {
		if code, _ := r.do("GET", "/apis/example.com/v1/gadgets", ""); code == http.StatusOK {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	var kept []recorded
	for _, c := range interchange {
		if c.kind == "" {
			continue
		}
		t.Run(c.plural, func(t *testing.T) {
			path := c.api + "/namespaces/default/" + c.plural
			r.must("POST", path, fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":"x","labels":{"made":"by-kubernetes"}}}`, strings.TrimPrefix(strings.TrimPrefix(c.api, "/api/"), "/apis/"), c.kind))
			key, resource := "/registry/"+c.plural+"/default/x", schema.GroupResource{Group: c.group, Resource: c.plural}
			switch {
			case c.plural == "endpoints":
				key = "/registry/services/endpoints/default/x"
			case c.group != "":
				key = "/registry/" + c.group + "/" + c.plural + "/default/x"
			}
			stored := r.get(key)
			if !bytes.HasPrefix(stored, []byte(c.prefix)) {
				t.Fatalf("kube-apiserver stored %.60q", stored)
			}
			kept = append(kept, recorded{c.group, c.plural, key, stored})
			value, _, err := ours.Decrypt(t.Context(), resource, key, stored)
			if err != nil || !bytes.Contains(value, []byte("by-kubernetes")) {
				t.Fatalf("decrypted %q, %v", value, err)
			}
			again, err := ours.Encrypt(t.Context(), resource, key, bytes.ReplaceAll(value, []byte("by-kubernetes"), []byte("by-skiff-here")))
			if err != nil || !bytes.HasPrefix(again, []byte(c.prefix)) {
				t.Fatalf("encrypted %.60q, %v", again, err)
			}
			r.put(key, again)
			if answer := r.must("GET", path+"/x", ""); !strings.Contains(answer, "by-skiff-here") {
				t.Errorf("kube-apiserver reads %s", answer)
			}
		})
	}
	if *record && !t.Failed() {
		data, err := json.MarshalIndent(kept, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		write(t, "testdata/kubernetes.json", string(data)+"\n")
	}
	r.messages(t, plugin)
}

// messages logs what kube-apiserver says of values that cannot be decrypted,
// and when nothing can be encrypted.
func (r *real) messages(t *testing.T, plugin *kmstest.Plugin) {
	const secrets = "/api/v1/namespaces/default/secrets"
	r.must("POST", secrets, `{"metadata":{"name":"y"}}`)
	x, y := r.get("/registry/secrets/default/x"), r.get("/registry/secrets/default/y")
	for what, value := range map[string][]byte{
		"swapped": y, "cut": x[:len(x)-1], "cut to the nonce": x[:len("k8s:enc:aesgcm:v1:key1:")+3], "of no key": []byte("k8s:enc:aesgcm:v1:other:" + strings.Repeat("x", 50)),
		"of no provider": []byte("k8s:enc:none:v1:key1:xx"),
	} {
		r.put("/registry/secrets/default/x", value)
		for _, q := range [][2]string{{"GET", secrets + "/x"}, {"GET", secrets}, {"PUT", secrets + "/x"}, {"DELETE", secrets + "/x"}} {
			code, answer := r.do(q[0], q[1], `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}`)
			t.Logf("%s: %s %s: %d %s", what, q[0], q[1], code, answer)
		}
	}
	r.put("/registry/secrets/default/x", x)
	_, health := r.do("GET", "/healthz?verbose", "")
	_, ready := r.do("GET", "/readyz?verbose", "")
	_, live := r.do("GET", "/livez?verbose", "")
	t.Logf("healthz %s\nreadyz %s\nlivez %s", health, ready, live)
	_, metrics := r.do("GET", "/metrics", "")
	for line := range strings.Lines(metrics) {
		if !strings.Contains(line, "bucket") && (strings.Contains(line, "envelope") || strings.Contains(line, "transformation") || strings.Contains(line, "encryption_config") || strings.Contains(line, "data_key")) {
			t.Logf("metric %s", line)
		}
	}
}
