package hooks

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestExecHook(t *testing.T) {
	var ran []string
	code := 0
	r := New(func(_ context.Context, id string, cmd []string, _ time.Duration) ([]byte, int, error) {
		ran = append([]string{id}, cmd...)
		return []byte("output"), code, nil
	})
	h := &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"a", "b"}}}
	if err := r.Run(t.Context(), h, &v1.Container{}, "id", ""); err != nil || len(ran) != 3 || ran[0] != "id" {
		t.Errorf("ran %v, error %v", ran, err)
	}
	code = 3
	const want = "command 'a b' exited with 3: output"
	if err := r.Run(t.Context(), h, &v1.Container{}, "id", ""); err == nil || err.Error() != want {
		t.Errorf("error is %v, want %q", err, want)
	}
}

func TestHTTPHook(t *testing.T) {
	var got *http.Request
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		w.WriteHeader(http.StatusInternalServerError) // hooks do not look at the answer
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	port := func(s *httptest.Server) int {
		_, p, err := net.SplitHostPort(s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(p)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	named := &v1.Container{Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(port(plain))}}}
	for _, test := range []struct {
		name string
		get  v1.HTTPGetAction
	}{
		{"by number", v1.HTTPGetAction{Port: intstr.FromInt(port(plain))}},
		{"by name", v1.HTTPGetAction{Port: intstr.FromString("web")}},
		{"secure", v1.HTTPGetAction{Port: intstr.FromInt(port(secure)), Scheme: v1.URISchemeHTTPS}},
		{"plain server behind https", v1.HTTPGetAction{Port: intstr.FromInt(port(plain)), Scheme: v1.URISchemeHTTPS}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got = nil
			test.get.Path = "/echo?msg=x"
			test.get.HTTPHeaders = []v1.HTTPHeader{{Name: "Host", Value: "h.example"}, {Name: "X-A", Value: "b"}}
			err := New(nil).Run(t.Context(), &v1.LifecycleHandler{HTTPGet: &test.get}, named, "id", "127.0.0.1")
			if err != nil {
				t.Fatal(err)
			}
			if got == nil || got.URL.String() != "/echo?msg=x" || got.Host != "h.example" || got.Header.Get("X-A") != "b" || got.UserAgent() != "kube-lifecycle/1.36" {
				t.Errorf("server got %+v", got)
			}
		})
	}
	err := New(nil).Run(t.Context(), &v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{Port: intstr.FromString("no")}}, named, "id", "127.0.0.1")
	if err == nil || err.Error() != "invalid port number: no" {
		t.Errorf("error for an unknown port is %v", err)
	}
}

func TestSleepHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 5}}
		began := time.Now()
		if err := New(nil).Run(t.Context(), h, &v1.Container{}, "id", ""); err != nil || time.Since(began) != 5*time.Second {
			t.Errorf("slept %v (%v), want 5s", time.Since(began), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := New(nil).Run(ctx, h, &v1.Container{}, "id", ""); err == nil {
			t.Error("a sleep that is cut off is no error")
		}
	})
}

func TestImpossibleHooks(t *testing.T) {
	for name, h := range map[string]v1.LifecycleHandler{"empty": {}, "tcp": {TCPSocket: &v1.TCPSocketAction{}}} {
		if err := New(nil).Run(t.Context(), &h, &v1.Container{}, "id", ""); err == nil {
			t.Errorf("%s hook is no error", name)
		}
	}
}
