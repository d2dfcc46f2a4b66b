package controllers_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/controllers"
)

const services = "/apis/apiregistration.k8s.io/v1/apiservices"

// TestExtensionServerThatIsGone: what is not its own is collected and emptied as
// before; a namespace does not go, since nobody knows what is left in it.
func TestExtensionServerThatIsGone(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	err := w.Discovery().RESTClient().Post().AbsPath(services).SetHeader("Content-Type", "application/json").Body([]byte(`{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.gone.example.com"}, "spec": {"group": "gone.example.com",
		"version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10, "insecureSkipTLSVerify": true, "service": {"namespace": "default", "name": "gone"}}}`)).Do(ctx).Error()
	if err != nil {
		t.Fatal(err)
	}
	w.restart() // so that they know of it from the start

	maps := w.CoreV1().ConfigMaps(w.namespace)
	owner, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owned := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owned", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID},
	}}}
	if _, err := maps.Create(ctx, owned, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := maps.Delete(ctx, owner.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the collection of what is owned", func() error {
		_, err := maps.Get(ctx, owned.Name, metav1.GetOptions{})
		return gone(err)
	})

	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "content"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.CoreV1().Namespaces().Delete(ctx, w.namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the condition that names the group", func() error {
		namespace, err := w.CoreV1().Namespaces().Get(ctx, w.namespace, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range namespace.Status.Conditions {
			if c.Type != corev1.NamespaceDeletionDiscoveryFailure || c.Status != corev1.ConditionTrue {
				continue
			}
			const want = "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: " +
				"gone.example.com/v1: stale GroupVersion discovery: gone.example.com/v1"
			if c.Reason != "DiscoveryFailed" || c.Message != want {
				t.Fatalf("got %s %q, want %q", c.Reason, c.Message, want)
			}
			return nil
		}
		return fmt.Errorf("conditions: %v", namespace.Status.Conditions)
	})
	w.eventually("the end of what is known", func() error {
		_, err := maps.Get(ctx, "content", metav1.GetOptions{})
		return gone(err)
	})
	if err := w.Discovery().RESTClient().Delete().AbsPath(services, "v1.gone.example.com").Do(ctx).Error(); err != nil {
		t.Fatal(err)
	}
	w.eventually("the end of the namespace", func() error {
		_, err := w.CoreV1().Namespaces().Get(ctx, w.namespace, metav1.GetOptions{})
		return gone(err)
	})
}

// flappy is an extension server that says what it has, which is another thing each time it is registered, and then,
// until it is well, never answers a request for it.
type flappy struct {
	*httptest.Server
	asked chan bool // has a token if what it has now was asked for
	times atomic.Int64
	well  atomic.Bool
}

func (f *flappy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	has := fmt.Sprint("flaps", f.times.Load())
	switch about := strings.Contains(r.URL.Path, "/flaps"); {
	case about && f.well.Load() && r.URL.Query().Get("watch") == "":
		io.WriteString(w, `{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"1"},"items":[]}`)
	case about:
		if strings.HasSuffix(r.URL.Path, "/"+has) {
			select {
			case f.asked <- true:
			default: // there is one already
			}
		}
		<-r.Context().Done()
	case r.URL.Path == "/apis/flap.example.com/v1":
		io.WriteString(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"flap.example.com/v1","resources":[`+
			`{"name":"`+has+`","singularName":"flap","namespaced":true,"kind":"Flap","verbs":["get","list","watch","delete","create"]}]}`)
	default:
		http.NotFound(w, r)
	}
}

// startFlappy starts a world in which v1.flap.example.com can be registered.
func startFlappy(t *testing.T) (*world, *flappy) {
	t.Helper()
	f := &flappy{asked: make(chan bool, 1)}
	f.Server = httptest.NewTLSServer(f)
	t.Cleanup(f.Close)
	w := startWith(t, controllers.Config{}, func(o *apiserver.Options) {
		o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, f.Listener.Addr().String())
		}
	})
	_, err := w.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "flap"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}}, metav1.CreateOptions{})
	if err == nil {
		_, err = w.DiscoveryV1().EndpointSlices("default").Create(t.Context(), &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: "flap-1", Labels: map[string]string{discoveryv1.LabelServiceName: "flap"}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr(""), Port: ptr[int32](9443)}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.10"}}},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return w, f
}

func (w *world) registerFlap(ctx context.Context) error {
	return w.Discovery().RESTClient().Post().AbsPath(services).SetHeader("Content-Type", "application/json").Body([]byte(`{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.flap.example.com"}, "spec": {"group": "flap.example.com",
		"version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10, "insecureSkipTLSVerify": true, "service": {"namespace": "default", "name": "flap"}}}`)).Do(ctx).Error()
}

// TestExtensionServerThatFlaps: what has lost its owner is collected while an extension server that answers no
// requests comes and goes, and namespaces go when it is well.
func TestExtensionServerThatFlaps(t *testing.T) {
	w, f := startFlappy(t)
	ctx, end := context.WithCancel(t.Context())
	var flapping sync.WaitGroup
	defer flapping.Wait()
	defer end()
	if err := w.registerFlap(ctx); err != nil {
		t.Fatal(err)
	}
	<-f.asked // by the garbage collector
	flapping.Go(func() {
		for {
			f.times.Add(1)
			err := w.Discovery().RESTClient().Delete().AbsPath(services, "v1.flap.example.com").Do(t.Context()).Error()
			if err == nil {
				err = w.registerFlap(t.Context())
			}
			if err != nil {
				t.Error(err)
				return
			}
			select {
			case <-f.asked:
			case <-ctx.Done():
				return
			}
		}
	})

	maps := w.CoreV1().ConfigMaps(w.namespace)
	for round := range 3 {
		owner, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("owner-", round)}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		owned := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("owned-", round), OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID},
		}}}
		if _, err := maps.Create(ctx, owned, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := maps.Delete(ctx, owner.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		w.eventually("the collection of what is owned", func() error {
			_, err := maps.Get(ctx, owned.Name, metav1.GetOptions{})
			return gone(err)
		})
	}
	f.well.Store(true)
	end()
	flapping.Wait()
	f.CloseClientConnections()
	if err := w.CoreV1().Namespaces().Delete(t.Context(), w.namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the end of the namespace", func() error {
		_, err := w.CoreV1().Namespaces().Get(t.Context(), w.namespace, metav1.GetOptions{})
		return gone(err)
	})
}
