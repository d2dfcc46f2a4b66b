package inprocess

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/informers/internalinterfaces"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

var admin = &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

type world struct {
	*testing.T
	server *apiserver.Server
	client kubernetes.Interface
}

func start(t *testing.T) world { return startWith(t, nil) }

func startWith(t *testing.T, change func(*apiserver.Options)) world {
	t.Helper()
	s := apiservertest.Start(t, change)
	client, err := kubernetes.NewForConfig(apiservertest.Config(s, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	return world{t, s, client}
}

// create makes a ConfigMap.
func (w world) create(name string) *corev1.ConfigMap {
	w.Helper()
	m, err := w.client.CoreV1().ConfigMaps("default").Create(w.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return m
}

// stored is what the store holds of a ConfigMap.
func (w world) stored(name string) resource.Object {
	w.Helper()
	item, err := w.server.Store().Get(w.Context(), w.server.Cluster().Resource("", "configmaps"), "default", name)
	if err != nil {
		w.Fatal(err)
	}
	return item.Object()
}

// TestOneCopy: informers hold what the store holds, from the list and from the
// watch on.
func TestOneCopy(t *testing.T) {
	w := start(t)
	w.create("before")
	factory := Informers(w.server, admin, "test", w.client)
	maps := factory.Core().V1().ConfigMaps()
	seen := make(chan any, 100)
	maps.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { seen <- obj },
		UpdateFunc: func(_, obj any) { seen <- obj },
		DeleteFunc: func(obj any) { seen <- obj },
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer factory.Shutdown()
	defer cancel()
	factory.StartWithContext(ctx)
	factory.WaitForCacheSync(ctx.Done())
	await := func(name string, is func(*corev1.ConfigMap) bool) *corev1.ConfigMap {
		t.Helper()
		for obj := range seen {
			if m := obj.(*corev1.ConfigMap); m.Name == name && is(m) {
				return m
			}
		}
		return nil
	}
	any := func(*corev1.ConfigMap) bool { return true }
	if got := await("before", any); got != w.stored("before") {
		t.Error("the list gave a copy")
	}
	created := w.create("after")
	if got := await("after", any); got != w.stored("after") {
		t.Error("the watch gave a copy of what was created")
	}
	created.Data = map[string]string{"a": "b"}
	if _, err := w.client.CoreV1().ConfigMaps("default").Update(t.Context(), created, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := await("after", func(m *corev1.ConfigMap) bool { return m.Data["a"] == "b" }); got != w.stored("after") {
		t.Error("the watch gave a copy of what was changed")
	}
	if err := w.client.CoreV1().ConfigMaps("default").Delete(t.Context(), "after", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	before := created.ResourceVersion
	if got := await("after", func(m *corev1.ConfigMap) bool { return m.Data["a"] == "b" }); got.ResourceVersion == before {
		t.Error("what was deleted has the revision it had before")
	}
	if _, err := maps.Lister().ConfigMaps("default").Get("after"); !apierrors.IsNotFound(err) {
		t.Errorf("after the deletion the lister says %v", err)
	}
}

// TestChangeOfWhatIsShared: who changes what a lister gives is found out.
func TestChangeOfWhatIsShared(t *testing.T) {
	var found []string
	t.Run("someone", func(t *testing.T) {
		w := startWith(t, func(o *apiserver.Options) { o.Changed = func(d string) { found = append(found, d) } })
		w.create("one")
		factory := Informers(w.server, admin, "test", w.client)
		maps := factory.Core().V1().ConfigMaps().Lister()
		ctx, cancel := context.WithCancel(t.Context())
		defer factory.Shutdown()
		defer cancel()
		factory.StartWithContext(ctx)
		factory.WaitForCacheSync(ctx.Done())
		m, err := maps.ConfigMaps("default").Get("one")
		if err != nil {
			t.Fatal(err)
		}
		m.Labels = map[string]string{"seen": "true"}
	})
	if len(found) != 1 || !strings.Contains(found[0], "ConfigMap default/one") {
		t.Errorf("found %q", found)
	}
}

// TestEveryInformer: none of a kind that is served asks the client, which is
// not there.
func TestEveryInformer(t *testing.T) {
	w := start(t)
	f := Informers(w.server, admin, "test", nil).(*factory)
	kept := &keeper{SharedInformerFactory: f.SharedInformerFactory, asked: make(map[reflect.Type]bool)}
	f.SharedInformerFactory = kept
	n := 0
	for _, group := range results(reflect.ValueOf(f), "Interface") {
		for _, version := range results(group, "Interface") {
			for _, kind := range results(version, "Informer") {
				n++
				clear(kept.asked)
				kind.MethodByName("Informer").Call(nil)
				if len(kept.asked) == 0 {
					t.Errorf("%v is made by client-go", kind.Type())
				}
			}
		}
	}
	if n < 60 {
		t.Errorf("found %d kinds", n)
	}
	for _, r := range w.server.Resources() {
		if r.Custom != nil {
			continue
		}
		clear(kept.asked)
		if _, err := f.ForResource(r.GVR()); err == nil && !kept.asked[reflect.TypeOf(r.New())] {
			t.Errorf("for %v client-go makes an informer", r.GVR())
		}
	}
}

// keeper notes which informers the factory makes itself.
type keeper struct {
	informers.SharedInformerFactory
	asked map[reflect.Type]bool
}

func (k *keeper) InformerFor(obj runtime.Object, make internalinterfaces.NewInformerFunc) cache.SharedIndexInformer {
	k.asked[reflect.TypeOf(obj)] = true
	return k.SharedInformerFactory.InformerFor(obj, make)
}

// results are what the methods without parameters return whose only result is an
// interface with a name that ends so.
func results(v reflect.Value, suffix string) (list []reflect.Value) {
	for i := range v.NumMethod() {
		m := v.Method(i)
		if m.Type().NumIn() == 0 && m.Type().NumOut() == 1 && strings.HasSuffix(m.Type().Out(0).Name(), suffix) {
			list = append(list, m.Call(nil)[0])
		}
	}
	return list
}

// TestRights: a component without the right is refused as any client is, and
// asks until it has it.
func TestRights(t *testing.T) {
	w := start(t)
	w.create("one")
	who := &user.DefaultInfo{Name: "someone", Groups: []string{user.AllAuthenticated}}
	source := w.server.Source(who, "test", configMaps)
	plain, err := kubernetes.NewForConfig(apiservertest.Config(w.server, "someone", user.AllAuthenticated))
	if err != nil {
		t.Fatal(err)
	}
	_, want := plain.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{})
	if _, err := source.List(metav1.ListOptions{}); !apierrors.IsForbidden(err) || err.Error() != want.Error() {
		t.Errorf("list: got %v, want %v", err, want)
	}
	_, want = plain.CoreV1().ConfigMaps("").Watch(t.Context(), metav1.ListOptions{})
	if _, err := source.Watch(metav1.ListOptions{}); !apierrors.IsForbidden(err) || err.Error() != want.Error() {
		t.Errorf("watch: got %v, want %v", err, want)
	}
	factory := Informers(w.server, who, "test", plain)
	informer := factory.Core().V1().ConfigMaps().Informer()
	refused := make(chan error, 100)
	if err := informer.SetWatchErrorHandler(func(_ *cache.Reflector, err error) { refused <- err }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer factory.Shutdown()
	defer cancel()
	factory.StartWithContext(ctx)
	if err := <-refused; !apierrors.IsForbidden(errors.Unwrap(err)) && !apierrors.IsForbidden(err) {
		t.Errorf("the informer was told %v", err)
	}
	if informer.HasSynced() {
		t.Error("the informer has synced without the right")
	}
	w.allow("someone")
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		t.Error("the informer has not synced with the right")
	}
}

// allow lets a user read ConfigMaps.
func (w world) allow(name string) {
	w.Helper()
	_, err := w.client.RbacV1().ClusterRoles().Create(w.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"list", "watch"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}}}, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	_, err = w.client.RbacV1().ClusterRoleBindings().Create(w.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "reader"}, Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: name}}}, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
}

// TestWatchAnswers: a watch in process says what the same watch says in bytes.
func TestWatchAnswers(t *testing.T) {
	w := start(t)
	first := w.create("first")
	for i := range 3 {
		w.create(fmt.Sprint("more-", i))
	}
	if err := w.client.CoreV1().ConfigMaps("default").Delete(t.Context(), "more-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]metav1.ListOptions{
		"events":             {ResourceVersion: first.ResourceVersion, TimeoutSeconds: new(int64(1))},
		"events of one":      {ResourceVersion: first.ResourceVersion, TimeoutSeconds: new(int64(1)), FieldSelector: "metadata.name=more-1"},
		"objects and events": {TimeoutSeconds: new(int64(1)), FieldSelector: "metadata.namespace=default"},
		"streamed list": {TimeoutSeconds: new(int64(1)), FieldSelector: "metadata.namespace=default", AllowWatchBookmarks: true,
			SendInitialEvents: new(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan},
		"the future": {ResourceVersion: "1000000", TimeoutSeconds: new(int64(1)), SendInitialEvents: new(true),
			ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true},
		"no number": {ResourceVersion: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own, err := w.server.Source(admin, "test", configMaps).Watch(o)
			theirs, want := w.client.CoreV1().ConfigMaps("").Watch(t.Context(), o)
			if fmt.Sprint(err) != fmt.Sprint(want) {
				t.Fatalf("got error %v, want %v", err, want)
			}
			if err != nil {
				return
			}
			if got, want := told(t, own), told(t, theirs); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

// TestTooOld: a watch from before what is remembered ends with the same words as
// it does for others.
func TestTooOld(t *testing.T) {
	w := start(t)
	m := w.create("large")
	o := metav1.ListOptions{ResourceVersion: m.ResourceVersion, TimeoutSeconds: new(int64(1))}
	for i := range 20 { // more than the log of a kind has room for
		m.Data = map[string]string{"text": strings.Repeat(string(rune('a'+i)), 1<<20-100)}
		var err error
		if m, err = w.client.CoreV1().ConfigMaps("default").Update(t.Context(), m, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	own, err := w.server.Source(admin, "test", configMaps).Watch(o)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := w.client.CoreV1().ConfigMaps("").Watch(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	got, want := told(t, own), told(t, theirs)
	if len(got) != 1 || !strings.Contains(got[0], "too old resource version") || !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// told is what a watch says until it ends.
func told(t *testing.T, w watch.Interface) (all []string) {
	t.Helper()
	defer w.Stop()
	for e := range w.ResultChan() {
		if e.Type == watch.Error {
			all = append(all, fmt.Sprint(e.Type, apierrors.FromObject(e.Object)))
			continue
		}
		obj, err := meta.Accessor(e.Object)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprint(e.Type, " ", obj.GetNamespace(), "/", obj.GetName(), " ", obj.GetResourceVersion(), obj.GetAnnotations()))
	}
	return all
}

// TestStop: a watch that its client stops ends, though events wait.
func TestStop(t *testing.T) {
	w := start(t)
	watching, err := w.server.Source(admin, "test", configMaps).Watch(metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		w.create(fmt.Sprint("one-", i))
	}
	watching.Stop()
	over := time.After(30 * time.Second)
	for {
		select {
		case _, open := <-watching.ResultChan():
			if !open {
				return
			}
		case <-over:
			t.Fatal("the watch goes on")
		}
	}
}
