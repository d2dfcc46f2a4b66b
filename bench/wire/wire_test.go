package wire_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/skiff-k8s/skiff/bench/wire"
)

// dial connects to a server of net/http.
func dial(t *testing.T, h http.HandlerFunc) *wire.Conn {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	c, err := wire.Dial(t.Context(), server.Listener.Addr().String(), &tls.Config{RootCAs: roots(server)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func roots(s *httptest.Server) *x509.CertPool {
	return s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
}

// Many requests at once each get their own answer, also when together they are more than the windows of the
// connection hold.
func TestAnswers(t *testing.T) {
	c := dial(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL.Path, r.Header.Get("Content-Type"), body)
	})
	var wg sync.WaitGroup
	for worker := range 50 {
		wg.Go(func() {
			caller := c.NewCaller()
			for n := range 40 {
				body := strings.Repeat(fmt.Sprintf("%d-%d ", worker, n), 1000)
				status, answer, err := caller.Do(t.Context(), http.MethodPost, fmt.Sprintf("/%d/%d", worker, n), []byte(body))
				want := fmt.Sprintf("POST /%d/%d application/vnd.kubernetes.protobuf %s", worker, n, body)
				if err != nil || status != http.StatusCreated || string(answer) != want {
					t.Errorf("got status %d, error %v, answer %.60q, want %.60q", status, err, answer, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A request that its caller has given up costs the caller's next ones nothing.
func TestGivenUp(t *testing.T) {
	given := make(chan struct{})
	c := dial(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
			close(given)
			return
		}
		fmt.Fprint(w, "quick")
	})
	caller := c.NewCaller()
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error)
	go func() {
		_, _, err := caller.Do(ctx, http.MethodGet, "/slow", nil)
		asked <- err
	}()
	cancel()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
	if _, answer, err := caller.Do(t.Context(), http.MethodGet, "/quick", nil); err != nil || string(answer) != "quick" {
		t.Errorf("then got %q, %v", answer, err)
	}
}

func TestConnectionEnds(t *testing.T) {
	c := dial(t, func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	caller := c.NewCaller()
	if _, _, err := caller.Do(t.Context(), http.MethodGet, "/", nil); err == nil {
		t.Error("a request that was cut off has an answer")
	}
	c.Close()
	if _, _, err := caller.Do(t.Context(), http.MethodGet, "/", nil); err == nil {
		t.Error("a closed connection answers")
	}
}

// More than all windows hold is streamed, and an answer that is no success is an error with what it says.
func TestGet(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcdef"), 3<<20)
	c := dial(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/gone" {
			http.Error(w, "too old", http.StatusGone)
			return
		}
		_, _ = w.Write(want)
	})
	var got []byte
	began := false
	err := c.Get(t.Context(), "/", func(piece []byte) {
		began = began || len(piece) == 0
		got = append(got, piece...)
	})
	if err != nil || !began || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, begun %v, error %v; want %d bytes", len(got), began, err, len(want))
	}
	var status *wire.StatusError
	if err := c.Get(t.Context(), "/gone", func([]byte) { t.Error("an error was streamed") }); !errors.As(err, &status) || status.Status != http.StatusGone || !strings.Contains(status.Body, "too old") {
		t.Errorf("got %v, want status 410 and what it says", err)
	}
}

func encode(t testing.TB, object runtime.Object) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := protobuf.NewSerializer(nil, nil).Encode(object, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func configMap(version string) *v1.ConfigMap {
	return &v1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Name: "n", Namespace: "s", UID: "u", ResourceVersion: version, Generation: 7},
		Data:       map[string]string{"a": "b"},
	}
}

func TestRevision(t *testing.T) {
	if got, err := wire.Revision(encode(t, configMap("12345"))); err != nil || got != 12345 {
		t.Errorf("got %d, %v", got, err)
	}
	list := &v1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: "77"}, Items: []v1.ConfigMap{*configMap("5")}}
	if got, err := wire.RevisionOfList(encode(t, list)); err != nil || got != 77 {
		t.Errorf("of a list: got %d, %v", got, err)
	}
	for name, object := range map[string][]byte{
		"nothing": nil, "JSON": []byte(`{"kind":"ConfigMap"}`), "no version": encode(t, configMap("")), "cut short": encode(t, configMap("12345"))[:12],
	} {
		if got, err := wire.Revision(object); err == nil {
			t.Errorf("%s: got %d, want an error", name, got)
		}
	}
}

// stream is a watch as it is sent.
func stream(t testing.TB, events ...metav1.WatchEvent) (all []byte) {
	t.Helper()
	for _, e := range events {
		frame, err := e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		all = append(binary.BigEndian.AppendUint32(all, uint32(len(frame))), frame...)
	}
	return all
}

// Events are the same however the stream is cut into pieces.
func TestSplitter(t *testing.T) {
	sent := stream(t,
		metav1.WatchEvent{Type: "ADDED", Object: runtime.RawExtension{Raw: encode(t, configMap("1"))}},
		metav1.WatchEvent{Type: "MODIFIED", Object: runtime.RawExtension{Raw: encode(t, configMap("22"))}},
		metav1.WatchEvent{Type: "BOOKMARK", Object: runtime.RawExtension{Raw: encode(t, configMap("333"))}})
	want := []string{"ADDED 1", "MODIFIED 22", "BOOKMARK 333"}
	for size := 1; size <= len(sent); size++ {
		var s wire.Splitter
		var got []string
		for piece := range slices.Chunk(slices.Clone(sent), size) {
			err := s.Add(piece, func(e wire.Event) error {
				n, err := wire.Revision(e.Object)
				got = append(got, fmt.Sprint(e.Type, " ", n))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			clear(piece) // which the reader of a connection uses again
		}
		if !slices.Equal(got, want) {
			t.Fatalf("in pieces of %d: got %q, want %q", size, got, want)
		}
	}
}

// Whatever a server sends is an error or an event, and no panic.
func FuzzSplitter(f *testing.F) {
	f.Add(stream(f, metav1.WatchEvent{Type: "ADDED", Object: runtime.RawExtension{Raw: encode(f, configMap("1"))}}))
	f.Add([]byte("\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		var s wire.Splitter
		_ = s.Add(sent, func(e wire.Event) error {
			if e.Type == "" && len(e.Object) > len(sent) {
				t.Error("an event is larger than what was sent")
			}
			_, err := wire.Revision(e.Object)
			return err
		})
	})
}
