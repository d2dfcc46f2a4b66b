package storage

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestWhatKubeletsSay: errors of kubelets are plain text that the API server passes on, errors of its own are objects.
func TestWhatKubeletsSay(t *testing.T) {
	for name, test := range map[string]struct {
		code       int
		kind, body string
		want       string
		full       bool
	}{
		"full": {http.StatusInsufficientStorage, "text/plain; charset=utf-8", "mkdir /v/pvc-1: no space left on device\n",
			`node "n": no space left on the node: mkdir /v/pvc-1: no space left on device`, true},
		"in use": {http.StatusConflict, "text/plain; charset=utf-8", "the volume is in use by pod 1\n",
			`node "n": the volume is in use by pod 1`, false},
		"being wiped": {http.StatusAccepted, "text/plain; charset=utf-8", "context deadline exceeded\n",
			`node "n": the volume is still being wiped`, false},
		"of the API server": {http.StatusServiceUnavailable, "application/json",
			`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"error trying to reach service: no route","reason":"ServiceUnavailable","code":503}`,
			`node "n": error trying to reach service: no route`, false},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/api/v1/nodes/n/proxy/localVolumes/pvc-1" {
					t.Errorf("asked for %s", r.URL.Path)
				}
				w.Header().Set("Content-Type", test.kind)
				w.WriteHeader(test.code)
				fmt.Fprint(w, test.body)
			}))
			defer server.Close()
			client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{
				ContentType: "application/vnd.kubernetes.protobuf", AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json",
			}})
			if err != nil {
				t.Fatal(err)
			}
			_, makes := ByKubelets(client).Make(t.Context(), "n", "pvc-1")
			for verb, err := range map[string]error{"make": makes, "wipe": ByKubelets(client).Wipe(t.Context(), "n", "pvc-1")} {
				if err == nil || err.Error() != test.want {
					t.Errorf("%s: got %v, want %s", verb, err, test.want)
				}
				if errors.Is(err, ErrNoSpace) != test.full {
					t.Errorf("%s: the node is full: %v, want %v", verb, !test.full, test.full)
				}
			}
		})
	}
}
