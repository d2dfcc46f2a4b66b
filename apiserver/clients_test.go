package apiserver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend/engines"
)

var configMaps = corev1.SchemeGroupVersion.WithResource("configmaps")

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"n": "0"}}
}

// next is the next event of a watch.
func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case e, ok := <-w.ResultChan():
		if !ok {
			t.Fatal("the watch has ended, want an event")
		}
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("no event within 20 s")
	}
	panic("unreachable")
}

func TestInformers(t *testing.T) {
	s := apiservertest.Start(t, nil)
	for _, media := range []string{inJSON, inProtobuf} {
		t.Run(media, func(t *testing.T) {
			c := client(t, apiservertest.Config(s, "admin"), media)
			namespace := "informers-" + media[len(media)-4:]
			if _, err := c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			api := c.CoreV1().ConfigMaps(namespace)
			const count = 50
			for i := range count / 2 {
				if _, err := api.Create(t.Context(), configMap(fmt.Sprint("before-", i)), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			factory := informers.NewSharedInformerFactoryWithOptions(c, 0, informers.WithNamespace(namespace))
			informer := factory.Core().V1().ConfigMaps()
			informer.Informer()
			ctx, cancel := context.WithCancel(t.Context())
			factory.Start(ctx.Done())
			defer factory.Shutdown()
			defer cancel()
			if !cache.WaitForCacheSync(ctx.Done(), informer.Informer().HasSynced) {
				t.Fatal("the informer does not sync")
			}
			for i := range count / 2 {
				if _, err := api.Create(t.Context(), configMap(fmt.Sprint("after-", i)), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				if err := api.Delete(t.Context(), fmt.Sprint("before-", i), metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			list, err := api.List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			want := make(map[string]*corev1.ConfigMap)
			for i := range list.Items {
				want[namespace+"/"+list.Items[i].Name] = &list.Items[i]
			}
			if len(want) != count/2 {
				t.Errorf("list has %d objects, want %d", len(want), count/2)
			}
			deadline := time.Now().Add(20 * time.Second)
			for !sameObjects(informer.Informer().GetStore(), want) {
				if time.Now().After(deadline) {
					t.Fatalf("the informer has %v, want %v", informer.Informer().GetStore().ListKeys(), want)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
}

// sameObjects reports whether an informer has exactly the objects of want.
func sameObjects(have cache.Store, want map[string]*corev1.ConfigMap) bool {
	if len(have.ListKeys()) != len(want) {
		return false
	}
	for key, obj := range want {
		got, ok, _ := have.GetByKey(key)
		if !ok || !equality.Semantic.DeepEqual(got, obj) {
			return false
		}
	}
	return true
}

func TestDynamicAndMetadataClients(t *testing.T) {
	s := apiservertest.Start(t, nil)
	config := apiservertest.Config(s, "admin")
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	m, err := metadata.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	watched, err := m.Resource(configMaps).Namespace("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watched.Stop()
	obj := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"generateName": "d-"}, "data": map[string]any{"a": "b"}}}
	made, err := d.Resource(configMaps).Namespace("default").Create(t.Context(), obj, metav1.CreateOptions{})
	if err != nil || !strings.HasPrefix(made.GetName(), "d-") || len(made.GetName()) != len("d-12345") {
		t.Fatalf("create = %v, %v; want a name of d- and five characters", made, err)
	}
	if e := next(t, watched); e.Type != watch.Added || e.Object.(*metav1.PartialObjectMetadata).Name != made.GetName() {
		t.Errorf("metadata event = %v, want ADDED of %s", e, made.GetName())
	}
	list, err := m.Resource(configMaps).Namespace("default").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].UID != made.GetUID() {
		t.Errorf("metadata list = %v, %v; want %s", list, err, made.GetName())
	}
	all, err := d.Resource(configMaps).List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + made.GetName()})
	if err != nil || len(all.Items) != 1 || all.Items[0].GetUID() != made.GetUID() {
		t.Errorf("dynamic list = %v, %v; want %s", all, err, made.GetName())
	}
	if err := d.Resource(configMaps).Namespace("default").DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if e := next(t, watched); e.Type != watch.Deleted {
		t.Errorf("metadata event = %v, want DELETED", e)
	}
}

func TestApplyConflicts(t *testing.T) {
	s := apiservertest.Start(t, nil)
	api := client(t, apiservertest.Config(s, "admin"), inProtobuf).CoreV1().ConfigMaps("default")
	apply := func(manager, value string, force bool) error {
		_, err := api.Apply(t.Context(), applycorev1.ConfigMap("applied", "default").WithData(map[string]string{"k": value}),
			metav1.ApplyOptions{FieldManager: manager, Force: force})
		return err
	}
	if err := apply("one", "1", false); err != nil {
		t.Fatalf("first apply: %v", err)
	}
	if err := apply("two", "1", false); err != nil {
		t.Errorf("apply of the same value: %v, want shared ownership", err)
	}
	err := apply("two", "2", false)
	if !apierrors.IsConflict(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) || !strings.Contains(err.Error(), `conflict with "one": .data.k`) {
		t.Errorf("apply of another value: %v, want a conflict with one", err)
	}
	if err := apply("two", "2", true); err != nil {
		t.Errorf("forced apply: %v", err)
	}
	got, err := api.Get(t.Context(), "applied", metav1.GetOptions{})
	if err != nil || got.Data["k"] != "2" || len(got.ManagedFields) != 1 || got.ManagedFields[0].Manager != "two" {
		t.Errorf("got %v, %v; want k=2 managed by two alone", got, err)
	}
}

// TestConcurrentWrites lets many clients count in one object: no write is
// lost, by updates that see conflicts and by patches that do not.
func TestConcurrentWrites(t *testing.T) {
	s := apiservertest.Start(t, nil)
	api := client(t, apiservertest.Config(s, "admin"), inProtobuf).CoreV1().ConfigMaps("default")
	if _, err := api.Create(t.Context(), configMap("counter"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const writers, writes = 8, 10
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range writes {
				err := retry.RetryOnConflict(retry.DefaultBackoff, func() error { return increment(t.Context(), s, "counter") })
				for apierrors.IsConflict(err) {
					err = increment(t.Context(), s, "counter")
				}
				if err != nil {
					t.Errorf("increment: %v", err)
				}
				patch := fmt.Sprintf(`{"data":{"w%d-%d":"x"}}`, w, i)
				if _, err := api.Patch(t.Context(), "counter", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
					t.Errorf("patch: %v", err)
				}
			}
		})
	}
	group.Wait()
	got, err := api.Get(t.Context(), "counter", metav1.GetOptions{})
	if err != nil || got.Data["n"] != strconv.Itoa(writers*writes) || len(got.Data) != writers*writes+1 {
		t.Errorf("got n=%s and %d keys, %v; want %d and %d", got.Data["n"], len(got.Data), err, writers*writes, writers*writes+1)
	}
}

func increment(ctx context.Context, s *apiserver.Server, name string) error {
	cluster := s.Cluster()
	_, err := cluster.Get(ctx, cluster.Resource("", "configmaps"), "default", name)
	if err != nil {
		return err
	}
	d, err := dynamic.NewForConfig(apiservertest.Config(s, "incrementer"))
	if err != nil {
		return err
	}
	api := d.Resource(configMaps).Namespace("default")
	obj, err := api.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	n, _, _ := unstructured.NestedString(obj.Object, "data", "n")
	count, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	if err := unstructured.SetNestedField(obj.Object, strconv.Itoa(count+1), "data", "n"); err != nil {
		return err
	}
	_, err = api.Update(ctx, obj, metav1.UpdateOptions{})
	return err
}

func TestNoOpUpdateWritesNothing(t *testing.T) {
	s := apiservertest.Start(t, nil)
	api := client(t, apiservertest.Config(s, "admin"), inProtobuf).CoreV1().ConfigMaps("default")
	made, err := api.Create(t.Context(), configMap("same"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // so that times in managedFields would differ
	for name, update := range map[string]func() (*corev1.ConfigMap, error){
		"put": func() (*corev1.ConfigMap, error) {
			return api.Update(t.Context(), configMap("same"), metav1.UpdateOptions{})
		},
		"patch": func() (*corev1.ConfigMap, error) {
			return api.Patch(t.Context(), "same", types.MergePatchType, []byte(`{"data":{"n":"0"}}`), metav1.PatchOptions{})
		},
	} {
		got, err := update()
		if err != nil || got.ResourceVersion != made.ResourceVersion {
			t.Errorf("%s = resourceVersion %s, %v; want %s", name, got.ResourceVersion, err, made.ResourceVersion)
		}
	}
}

func TestWatchEndsWithItsClient(t *testing.T) {
	s := apiservertest.Start(t, nil)
	request := func(ctx context.Context) *http.Response {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://in-process/api/v1/configmaps?watch=1&resourceVersion=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := apiservertest.Config(s, "admin").Transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	t.Run("body closed", func(t *testing.T) {
		resp := request(t.Context())
		resp.Body.Close()
		if _, err := resp.Body.Read(make([]byte, 1)); err == nil {
			t.Error("read after close succeeds")
		}
	})
	t.Run("context canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		resp := request(ctx)
		cancel()
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
			t.Errorf("read = %v, want %v", err, context.Canceled)
		}
	})
	t.Run("timeoutSeconds", func(t *testing.T) {
		api := client(t, apiservertest.Config(s, "admin"), inProtobuf).CoreV1().ConfigMaps("default")
		second := int64(1)
		w, err := api.Watch(t.Context(), metav1.ListOptions{TimeoutSeconds: &second, ResourceVersion: "1"})
		if err != nil {
			t.Fatal(err)
		}
		for e := range w.ResultChan() {
			if e.Type == watch.Error {
				t.Errorf("event %v, want the watch to end quietly", e)
			}
		}
	})
}

// TestObjectsSurviveRestart stops a server and starts another on the same storage: what was
// written is there, and revisions go on where they were.
func TestObjectsSurviveRestart(t *testing.T) {
	address := "file://" + t.TempDir() + "/skiff.db"
	open := func(o *apiserver.Options) {
		backend, err := engines.Open(address)
		if err != nil {
			t.Fatal(err)
		}
		o.Backend = backend
	}
	var made *corev1.ConfigMap
	t.Run("first", func(t *testing.T) {
		api := client(t, apiservertest.Config(apiservertest.Start(t, open), "admin"), inProtobuf).CoreV1().ConfigMaps("default")
		var err error
		if made, err = api.Create(t.Context(), configMap("kept"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("second", func(t *testing.T) {
		api := client(t, apiservertest.Config(apiservertest.Start(t, open), "admin"), inProtobuf).CoreV1().ConfigMaps("default")
		got, err := api.Get(t.Context(), "kept", metav1.GetOptions{})
		if err != nil || !equality.Semantic.DeepEqual(got, made) {
			t.Errorf("get = %v, %v; want %v", got, err, made)
		}
		next, err := api.Create(t.Context(), configMap("next"), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		before, _ := strconv.Atoi(made.ResourceVersion)
		if after, _ := strconv.Atoi(next.ResourceVersion); after <= before {
			t.Errorf("resourceVersion after the restart is %d, want more than %d", after, before)
		}
	})
}

// serve lets s answer on a socket and returns its address.
func serve(t *testing.T, s *apiserver.Server) string {
	t.Helper()
	return serveOn(t, s, "127.0.0.1:0").String()
}

func serveOn(t *testing.T, s *apiserver.Server, address string) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr()
}

// asAdmin lets the bearer of admin-token do everything.
func asAdmin(o *apiserver.Options) { o.StaticTokens = adminToken }

func TestWebSocketWatch(t *testing.T) {
	s := apiservertest.Start(t, asAdmin)
	address := serve(t, s)
	conn, _, err := websocket.Dial(t.Context(), "ws://"+address+"/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0",
		&websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer admin-token"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	// What a client sends is ignored.
	if err := conn.Write(t.Context(), websocket.MessageText, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	api := client(t, apiservertest.Config(s, "admin"), inJSON).CoreV1().ConfigMaps("default")
	if _, err := api.Create(t.Context(), configMap("socket"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	kind, message, err := conn.Read(t.Context())
	if err != nil || kind != websocket.MessageText || !strings.HasPrefix(string(message), `{"type":"ADDED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"socket"`) {
		t.Errorf("message = %v %s, %v; want the ADDED event as text", kind, message, err)
	}
}

// A watch whose client sends more than anybody needs ends with the status for that.
func TestWebSocketWatchOfALongMessage(t *testing.T) {
	s := apiservertest.Start(t, asAdmin)
	conn, _, err := websocket.Dial(t.Context(), "ws://"+serve(t, s)+"/api/v1/namespaces/default/configmaps?watch=1",
		&websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer admin-token"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	go func() {
		message, err := conn.Writer(t.Context(), websocket.MessageBinary)
		for block := make([]byte, 1<<20); err == nil; {
			_, err = message.Write(block)
		}
	}()
	for err == nil {
		_, _, err = conn.Read(t.Context())
	}
	if got := websocket.CloseStatus(err); got != websocket.StatusMessageTooBig {
		t.Errorf("closed with %v (%v), want %v", got, err, websocket.StatusMessageTooBig)
	}
}

func TestUpgradeInProcess(t *testing.T) {
	s := apiservertest.Start(t, nil)
	conn, _, err := websocket.Dial(t.Context(), "ws://in-process/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0",
		&websocket.DialOptions{HTTPClient: &http.Client{Transport: apiservertest.Config(s, "admin").Transport}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	api := client(t, apiservertest.Config(s, "admin"), inJSON).CoreV1().ConfigMaps("default")
	if _, err := api.Create(t.Context(), configMap("piped"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, message, err := conn.Read(t.Context()); err != nil || !strings.Contains(string(message), `"piped"`) {
		t.Errorf("message = %s, %v; want the ADDED event", message, err)
	}
}

func TestLargeAnswersAreCompressed(t *testing.T) {
	s := apiservertest.Start(t, asAdmin)
	address := serve(t, s)
	api := client(t, apiservertest.Config(s, "admin"), inJSON).CoreV1().ConfigMaps("default")
	large := configMap("large")
	large.Data["large"] = strings.Repeat("x", 200<<10)
	if _, err := api.Create(t.Context(), large, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"/configmaps/large": true, "/configmaps": true, "/secrets": false} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/api/v1/namespaces/default"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer admin-token")
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || resp.Uncompressed != want {
			t.Errorf("GET %s: status %d, compressed %v, %d bytes, %v; want compressed %v", path, resp.StatusCode, resp.Uncompressed, len(body), err, want)
		}
	}
}
