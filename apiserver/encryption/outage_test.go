//go:build oracle

package encryption

import (
	"bytes"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/encryption/kmstest"
)

func (r *real) Do(method, path, body string) (int, string) { return r.do(method, path, body) }

// Restart does not wait until the server is ready: without its plugin it never is.
func (r *real) Restart() { r.restartUntil("/version") }

// What kube-apiserver answers while a plugin is away is what stands in
// testdata/outage.txt; -record writes it there. TestOutageOfPlugin puts the same
// to Skiff.
func TestOutage(t *testing.T) {
	plugin := kmstest.New(t)
	file := t.TempDir() + "/encryption.yaml"
	write(t, file, `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - kms: {apiVersion: v2, name: vault, endpoint: "unix://`+plugin.Socket+`", timeout: 1s}
`)
	const path = "testdata/outage.txt"
	script := kmstest.ReadScript(t, path)
	got := kmstest.RunScript(t, script, kmstest.Kubernetes, plugin, startReal(t, file))
	if *record {
		write(t, path, got)
	} else if got != script {
		t.Errorf("kube-apiserver answers\n%s", got)
	}
}

// What servers tell each other is encrypted by no rule, there as here.
func TestNotes(t *testing.T) {
	file := t.TempDir() + "/encryption.yaml"
	write(t, file, `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: ["*.*"]
  providers:
  - aesgcm: {keys: [{name: key1, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}
`)
	r := startReal(t, file)
	for key, prefix := range map[string]string{
		"/registry/masterleases/192.0.2.1":                "k8s\x00",
		"/registry/ranges/servicenodeports":               "k8s\x00",
		"/registry/services/endpoints/default/kubernetes": "k8s:enc:aesgcm:v1:key1:",
	} {
		if stored := r.get(key); !bytes.HasPrefix(stored, []byte(prefix)) {
			t.Errorf("%s: kube-apiserver stored %.60q, want %q", key, stored, prefix)
		}
	}
}
