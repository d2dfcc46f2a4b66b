package apiserver_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/encryption"
	"github.com/skiff-k8s/skiff/apiserver/encryption/kmstest"
)

// kept is a backend that a server does not close.
type kept struct{ backend.Backend }

func (kept) Close() error { return nil }

// encryptionFile has a rule for resources, with providers in the order given.
func encryptionFile(t *testing.T, resources string, providers ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "encryption.yaml")
	text := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [" + resources + "]\n  providers:\n  - " +
		strings.Join(providers, "\n  - ") + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func aesProvider(kind, name string) string {
	return kind + ": {keys: [{name: " + name + ", secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}"
}

func kmsProvider(p *kmstest.Plugin, timeout string) string {
	return "kms: {apiVersion: v2, name: vault, endpoint: 'unix://" + p.Socket + "', timeout: " + timeout + "}"
}

// encryptedServer is a server on b with a file.
func encryptedServer(t *testing.T, b backend.Backend, c encryption.Config) (*apiserver.Server, *kubernetes.Clientset) {
	t.Helper()
	s := apiservertest.Start(t, func(o *apiserver.Options) { o.Backend, o.Encryption = kept{b}, c })
	client, err := kubernetes.NewForConfig(apiservertest.Config(s, "tester"))
	if err != nil {
		t.Fatal(err)
	}
	return s, client
}

// values are what is stored of objects, by key.
func values(t *testing.T, b backend.Backend, prefix string) map[string][]byte {
	t.Helper()
	page, err := b.List(t.Context(), prefix, "", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string][]byte)
	for _, e := range page.Entries {
		found[e.Key] = e.Value
	}
	return found
}

func secret(name, data string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, StringData: map[string]string{"data": data}}
}

func createSecret(t *testing.T, client *kubernetes.Clientset, name, data string) {
	t.Helper()
	if _, err := client.CoreV1().Secrets("default").Create(t.Context(), secret(name, data), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// fetchPath returns the status and the body of a path.
func fetchPath(t *testing.T, s *apiserver.Server, path string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://in-process"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := apiservertest.Config(s, "tester").Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a.StatusCode, string(body)
}

// With a rule for everything, nothing that is stored can be read, custom
// resources included; a server with the file reads it all.
func TestEverythingIsEncrypted(t *testing.T) {
	b := memory.New()
	defer b.Close()
	c := encryption.Config{File: encryptionFile(t, "'*.*'", aesProvider("aesgcm", "key"))}
	s, client := encryptedServer(t, b, c)
	createSecret(t, client, "x", "hidden")
	for _, q := range [][2]string{
		{"/apis/apiextensions.k8s.io/v1/customresourcedefinitions", `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition",
			"metadata":{"name":"gadgets.example.com"},"spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"gadgets","kind":"Gadget"},
			"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}`},
		{"/apis/example.com/v1/namespaces/default/gadgets", `{"apiVersion":"example.com/v1","kind":"Gadget","metadata":{"name":"x","labels":{"is":"hidden"}}}`},
	} {
		for {
			err := client.RESTClient().Post().AbsPath(q[0]).Body([]byte(q[1])).Do(t.Context()).Error()
			if apierrors.IsNotFound(err) {
				time.Sleep(time.Millisecond) // the definition is not established yet
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	stored := values(t, b, "/registry/")
	for key, value := range stored {
		if strings.HasPrefix(key, "/registry/masterleases/") {
			continue // the signs of life of servers are no objects
		}
		if !bytes.HasPrefix(value, []byte("k8s:enc:aesgcm:v1:key:")) {
			t.Errorf("%s is stored as %.40q", key, value)
		}
	}
	for key, value := range values(t, b, "") {
		if bytes.Contains(value, []byte("hidden")) {
			t.Errorf("%s shows what is hidden", key)
		}
	}
	if len(stored) < 100 {
		t.Errorf("only %d objects", len(stored))
	}
	s.Close()
	s, client = encryptedServer(t, b, c)
	got, err := client.CoreV1().Secrets("default").Get(t.Context(), "x", metav1.GetOptions{})
	if err != nil || string(got.Data["data"]) != "hidden" {
		t.Errorf("read %v, %v", got, err)
	}
	for {
		code, body := fetchPath(t, s, "/apis/example.com/v1/namespaces/default/gadgets/x")
		if code == http.StatusOK && strings.Contains(body, "hidden") {
			break
		}
		if code != http.StatusNotFound {
			t.Fatalf("a custom resource: %d %s", code, body)
		}
		time.Sleep(time.Millisecond)
	}
}

// Rotation as Kubernetes' documentation has it: a new first key, and all
// objects replaced by themselves.
func TestRotation(t *testing.T) {
	b := memory.New()
	defer b.Close()
	s, client := encryptedServer(t, b, encryption.Config{})
	for i := range 20 {
		createSecret(t, client, fmt.Sprint("x", i), "hidden")
	}
	s.Close()
	for _, step := range []struct {
		providers []string
		prefix    string
	}{
		{[]string{aesProvider("aescbc", "a"), "identity: {}"}, "k8s:enc:aescbc:v1:a:"},
		{[]string{aesProvider("secretbox", "b"), aesProvider("aescbc", "a")}, "k8s:enc:secretbox:v1:b:"},
		{[]string{"identity: {}", aesProvider("secretbox", "b")}, "k8s\x00"},
	} {
		s, client := encryptedServer(t, b, encryption.Config{File: encryptionFile(t, "secrets", step.providers...)})
		for round := range 2 {
			list, err := client.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
			if err != nil || len(list.Items) != 20 {
				t.Fatalf("%d secrets, %v", len(list.Items), err)
			}
			for _, item := range list.Items {
				now, err := client.CoreV1().Secrets(item.Namespace).Update(t.Context(), &item, metav1.UpdateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if written := now.ResourceVersion != item.ResourceVersion; written != (round == 0) {
					t.Fatalf("%s, round %d: written %v", step.prefix, round, written)
				}
			}
		}
		for key, value := range values(t, b, "/registry/secrets/") {
			if !bytes.HasPrefix(value, []byte(step.prefix)) {
				t.Errorf("%s is stored as %.40q, want %q", key, value, step.prefix)
			}
		}
		s.Close()
	}
}

// Who can write to the storage cannot give one secret the content of another:
// it is unreadable then, and can be deleted. With aescbc nothing tells, as in
// Kubernetes.
func TestSecretsAreSwapped(t *testing.T) {
	for provider, message := range map[string]string{"aesgcm": "cipher: message authentication failed", "aescbc": ""} {
		t.Run(provider, func(t *testing.T) {
			b := memory.New()
			defer b.Close()
			c := encryption.Config{File: encryptionFile(t, "secrets", aesProvider(provider, "a"))}
			s, client := encryptedServer(t, b, c)
			createSecret(t, client, "x", "1")
			createSecret(t, client, "y", "2")
			s.Close()
			x, _, err := b.Get(t.Context(), "/registry/secrets/default/x")
			if err != nil {
				t.Fatal(err)
			}
			y, _, err := b.Get(t.Context(), "/registry/secrets/default/y")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Put(t.Context(), x.Key, y.Value, x.Revision, 0); err != nil {
				t.Fatal(err)
			}
			_, client = encryptedServer(t, b, c)
			got, err := client.CoreV1().Secrets("default").Get(t.Context(), "x", metav1.GetOptions{})
			if message == "" {
				if err != nil || string(got.Data["data"]) != "2" {
					t.Errorf("got %v, %v", got, err)
				}
				return
			}
			want := "object /registry/secrets/default/x cannot be read: " + message
			if apierrors.ReasonForError(err) != metav1.StatusReasonStoreReadError || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
			if _, err := client.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{}); err == nil || err.Error() != want {
				t.Errorf("list: %v", err)
			}
			if got, err := client.CoreV1().Secrets("default").Get(t.Context(), "y", metav1.GetOptions{}); err != nil || string(got.Data["data"]) != "2" {
				t.Errorf("the other: %v, %v", got, err)
			}
			ignore := metav1.DeleteOptions{IgnoreStoreReadErrorWithClusterBreakingPotential: new(true)}
			if err := client.CoreV1().Secrets("default").Delete(t.Context(), "x", ignore); err != nil {
				t.Errorf("delete: %v", err)
			}
		})
	}
}

// A server starts without its KMS plugin: it says that it is not well, and
// secrets can neither be read nor written until the plugin is there. A thousand
// of them ask it once.
func TestPluginComesLate(t *testing.T) {
	b := memory.New()
	defer b.Close()
	p := kmstest.New(t)
	p.Start(t)
	file := encryptionFile(t, "secrets", kmsProvider(p, "50ms"))
	s, client := encryptedServer(t, b, encryption.Config{File: encryptionFile(t, "secrets", kmsProvider(p, "1m"))})
	for i := range 1000 {
		createSecret(t, client, fmt.Sprint("x", i), "hidden")
	}
	s.Close()
	p.Stop()
	times := encryption.Times{Well: time.Millisecond, Ill: time.Millisecond, Retry: time.Millisecond}
	s, client = encryptedServer(t, b, encryption.Config{File: file, Times: times})
	for path, want := range map[string]int{"/healthz": 500, "/readyz": 500, "/livez": 200, "/healthz/kms-providers": 500, "/readyz/kms-providers": 500, "/livez/kms-providers": 404} {
		if code, body := fetchPath(t, s, path); code != want {
			t.Errorf("%s without the plugin: %d %s", path, code, body)
		}
	}
	_, err := client.CoreV1().Secrets("default").Get(t.Context(), "x0", metav1.GetOptions{})
	if err == nil || err.Error() != "object /registry/secrets/default/x0 cannot be read: got unexpected nil transformer" {
		t.Errorf("get without the plugin: %v", err)
	}
	_, err = client.CoreV1().Secrets("default").Create(t.Context(), secret("new", ""), metav1.CreateOptions{})
	if apierrors.ReasonForError(err) != metav1.StatusReasonInternalError || err.Error() != "Internal error occurred: got unexpected nil transformer" {
		t.Errorf("create without the plugin: %v", err)
	}
	if _, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{}); err != nil {
		t.Errorf("another kind without the plugin: %v", err)
	}
	_, before := p.Calls()
	p.Start(t)
	for {
		list, err := client.CoreV1().Secrets("default").List(context.Background(), metav1.ListOptions{})
		if err == nil {
			if len(list.Items) != 1000 || string(list.Items[999].Data["data"]) != "hidden" {
				t.Errorf("%d secrets", len(list.Items))
			}
			break
		}
		time.Sleep(time.Millisecond)
	}
	if _, decrypts := p.Calls(); decrypts-before != 1 {
		t.Errorf("the plugin was asked %d times for 1000 secrets", decrypts-before)
	}
	for _, path := range []string{"/healthz", "/readyz", "/healthz/kms-providers", "/readyz/kms-providers"} {
		if code, body := fetchPath(t, s, path); code != http.StatusOK {
			t.Errorf("%s with the plugin: %d %s", path, code, body)
		}
	}
	createSecret(t, client, "new", "hidden")
	_, metrics := fetchPath(t, s, "/metrics")
	for _, line := range []string{
		`apiserver_storage_transformation_operations_total{resource="secrets",status="OK",transformation_type="to_storage",transformer_prefix="k8s:enc:kms:v2:vault:"} `,
		`apiserver_envelope_encryption_dek_source_cache_size{provider_name="vault"} 2`,
		`apiserver_envelope_encryption_kms_operations_latency_seconds_count{grpc_status_code="OK",method_name="/v2.KeyManagementService/Decrypt",provider_name="vault"} 1`,
		`apiserver_storage_envelope_transformation_cache_misses_total `,
		`apiserver_storage_data_key_generation_duration_seconds_count 1`,
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("no metric %s", line)
		}
	}
}
