package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/skiff-k8s/skiff/cluster/image"
)

// archives makes two images of one repository.
func archives(t *testing.T) *registry {
	t.Helper()
	dir := t.TempDir()
	for _, tag := range []string{"1", "2"} {
		if _, err := (image.Image{
			Reference: "registry.k8s.io/e2e-test-images/kitten:" + tag,
			Layers:    []image.Layer{{image.Text{To: "animal", Content: "kitten " + tag}}},
		}).Ensure(dir); err != nil {
			t.Fatal(err)
		}
	}
	r, err := openRegistry(filepath.Join(dir, "*.tar"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func ask(t *testing.T, r *registry, method, url string) (*http.Response, []byte) {
	t.Helper()
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, url, nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Result(), body
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func TestPull(t *testing.T) {
	r := archives(t)
	const repository, ns = "/v2/e2e-test-images/kitten", "?ns=registry.k8s.io"
	answer, byTag := ask(t, r, http.MethodGet, repository+"/manifests/2"+ns)
	if got := answer.Header.Get("Docker-Content-Digest"); answer.StatusCode != http.StatusOK || got != digest(byTag) {
		t.Fatalf("manifest: got %s with digest %s, want 200 with %s", answer.Status, got, digest(byTag))
	}
	_, byDigest := ask(t, r, http.MethodGet, repository+"/manifests/"+digest(byTag)+ns)
	if string(byDigest) != string(byTag) {
		t.Errorf("manifest by digest: got %s, want %s", byDigest, byTag)
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(byTag, &manifest); err != nil {
		t.Fatal(err)
	}
	for _, part := range append(manifest.Layers, manifest.Config) {
		answer, blob := ask(t, r, http.MethodGet, repository+"/blobs/"+part.Digest.String()+ns)
		if answer.StatusCode != http.StatusOK || digest(blob) != part.Digest.String() || answer.ContentLength != part.Size {
			t.Errorf("blob %s: got %s, digest %s and length %d, want length %d", part.Digest, answer.Status, digest(blob), answer.ContentLength, part.Size)
		}
	}
}

func TestRefusals(t *testing.T) {
	r := archives(t)
	none := "/blobs/" + digest([]byte("nothing"))
	tests := []struct {
		name, method, path string
		want               int
	}{
		{"is a registry", http.MethodGet, "/v2/", http.StatusOK},
		{"known", http.MethodHead, "/v2/e2e-test-images/kitten/manifests/1?ns=registry.k8s.io", http.StatusOK},
		{"unknown tag", http.MethodHead, "/v2/e2e-test-images/kitten/manifests/3?ns=registry.k8s.io", http.StatusNotFound},
		{"unknown digest", http.MethodGet, "/v2/e2e-test-images/kitten/manifests/" + digest(nil) + "?ns=registry.k8s.io", http.StatusNotFound},
		{"unknown repository", http.MethodHead, "/v2/library/webserver/manifests/404?ns=docker.io", http.StatusNotFound},
		{"another registry", http.MethodHead, "/v2/e2e-test-images/kitten/manifests/1?ns=docker.io", http.StatusNotFound},
		{"unknown blob", http.MethodGet, "/v2/e2e-test-images/kitten" + none + "?ns=registry.k8s.io", http.StatusNotFound},
		{"no digest", http.MethodGet, "/v2/e2e-test-images/kitten/blobs/x?ns=registry.k8s.io", http.StatusBadRequest},
		{"push", http.MethodPost, "/v2/e2e-test-images/kitten/blobs/uploads/?ns=registry.k8s.io", http.StatusMethodNotAllowed},
		{"elsewhere", http.MethodGet, "/v1/", http.StatusNotFound},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got, body := ask(t, r, test.method, test.path); got.StatusCode != test.want {
				t.Errorf("%s %s: got %s %s, want %d", test.method, test.path, got.Status, body, test.want)
			}
		})
	}
}
