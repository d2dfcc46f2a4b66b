package garbage

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

var (
	configMaps   = served{corev1.SchemeGroupVersion.WithResource("configmaps"), corev1.SchemeGroupVersion.WithKind("ConfigMap"), true}
	clusterRoles = served{rbacv1.SchemeGroupVersion.WithResource("clusterroles"), rbacv1.SchemeGroupVersion.WithKind("ClusterRole"), false}
)

// bench is a collector whose monitors the test plays, before a real server.
type bench struct {
	*Collector
	t      *testing.T
	events *record.FakeRecorder
}

func newBench(t *testing.T) *bench {
	t.Helper()
	server := apiservertest.Start(t, nil)
	config := apiservertest.Config(server, "admin")
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	events := record.NewFakeRecorder(1000)
	c, err := New(Config{Discovery: client.Discovery(), Metadata: meta, Events: events})
	if err != nil {
		t.Fatal(err)
	}
	_, lists, err := client.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servedIn(lists) {
		c.monitors.kinds[s.kind] = s
	}
	for _, name := range []string{"here", "elsewhere"} {
		if _, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return &bench{c, t, events}
}

// create applies an object that is nothing but metadata, which the kinds used here allow, and shows it to the
// collector.
func (b *bench) create(s served, namespace, name string, owners ...metav1.OwnerReference) *metav1.PartialObjectMetadata {
	b.t.Helper()
	client := b.config.Metadata.Resource(s.resource).Namespace(namespace)
	data := fmt.Sprintf(`{"apiVersion":"%s","kind":%q,"metadata":{"name":%q,"ownerReferences":%s}}`, s.kind.GroupVersion(), s.kind.Kind, name, references(owners))
	made, err := client.Patch(b.t.Context(), name, "application/apply-patch+yaml", []byte(data), metav1.PatchOptions{FieldManager: "test"})
	if err != nil {
		b.t.Fatal(err)
	}
	b.monitors.handler(s).OnAdd(made, false)
	return made
}

func references(owners []metav1.OwnerReference) string {
	parts := []string{}
	for _, o := range owners {
		parts = append(parts, fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"name":%q,"uid":%q,"blockOwnerDeletion":%v}`, o.APIVersion, o.Kind, o.Name, o.UID, *o.BlockOwnerDeletion))
	}
	return "[" + strings.Join(parts, ",") + "]"
}

func (b *bench) remove(s served, obj *metav1.PartialObjectMetadata) {
	b.t.Helper()
	if err := b.config.Metadata.Resource(s.resource).Namespace(obj.Namespace).Delete(b.t.Context(), obj.Name, metav1.DeleteOptions{}); err != nil {
		b.t.Fatal(err)
	}
	b.monitors.handler(s).OnDelete(obj)
}

// left tells whether an object is still there.
func (b *bench) left(s served, obj *metav1.PartialObjectMetadata) bool {
	b.t.Helper()
	_, err := b.config.Metadata.Resource(s.resource).Namespace(obj.Namespace).Get(b.t.Context(), obj.Name, metav1.GetOptions{})
	if err != nil && !isAbsent(err) {
		b.t.Fatal(err)
	}
	return err == nil
}

func referTo(s served, name string, id uid, block bool) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: s.kind.GroupVersion().String(), Kind: s.kind.Kind, Name: name, UID: id, BlockOwnerDeletion: &block}
}

// situation is one combination of what bears upon the fate of an object.
type situation struct {
	dependentNamespace string
	ownerNamespace     string
	uid                string // of the owner: gone, live, unknown
	spelled            string // how the reference names the owner: right, or under a version, kind or name that is not its own
	other              string // a second owner: none, live, gone
	block              bool
}

func situations() (all []situation) {
	for _, dependent := range []string{"", "here"} {
		for _, owner := range []string{"", "here", "elsewhere"} {
			for _, id := range []string{"gone", "live", "unknown"} {
				for _, spelled := range []string{"right", "version", "kind", "otherkind", "name"} {
					for _, other := range []string{"none", "live", "gone"} {
						for _, block := range []bool{true, false} {
							all = append(all, situation{dependent, owner, id, spelled, other, block})
						}
					}
				}
			}
		}
	}
	return all
}

// fate is what kube-controller-manager does to the object: an owner may only be judged if its kind is served and
// its scope allows it, and the object is collected if it has none that is there.
func (s situation) fate() (collected, refused bool) {
	if s.spelled == "version" || s.spelled == "kind" {
		return false, true
	}
	namedNamespaced := s.ownerNamespace != ""
	if s.spelled == "otherkind" {
		namedNamespaced = !namedNamespaced
	}
	if s.dependentNamespace == "" && namedNamespaced {
		return false, true
	}
	there := s.uid == "live" && s.spelled == "right" && (s.ownerNamespace == "" || s.ownerNamespace == s.dependentNamespace)
	return !there && s.other != "live", false
}

func kindIn(namespace string) served {
	if namespace == "" {
		return clusterRoles
	}
	return configMaps
}

func TestWhatIsCollected(t *testing.T) {
	b := newBench(t)
	for i, s := range situations() {
		ownerKind, dependentKind := kindIn(s.ownerNamespace), kindIn(s.dependentNamespace)
		ownerName := fmt.Sprintf("owner-%d", i)
		id := uid(fmt.Sprintf("unknown-%d", i))
		var owner *metav1.PartialObjectMetadata
		if s.uid != "unknown" {
			owner = b.create(ownerKind, s.ownerNamespace, ownerName)
			id = owner.UID
		}
		ref := referTo(ownerKind, ownerName, id, s.block)
		switch s.spelled {
		case "version":
			ref.APIVersion = schema.GroupVersion{Group: ownerKind.kind.Group, Version: "v9"}.String()
		case "kind":
			ref.Kind = "Nothing"
		case "otherkind":
			other := map[served]served{configMaps: clusterRoles, clusterRoles: configMaps}[ownerKind]
			ref = referTo(other, ownerName, id, s.block)
		case "name":
			ref.Name = "another"
		}
		refs := []metav1.OwnerReference{ref}
		var second *metav1.PartialObjectMetadata
		if s.other != "none" {
			second = b.create(clusterRoles, "", fmt.Sprintf("second-%d", i))
			refs = append(refs, referTo(clusterRoles, second.Name, second.UID, s.block))
		}
		dependent := b.create(dependentKind, s.dependentNamespace, fmt.Sprintf("dependent-%d", i), refs...)
		if s.uid == "gone" {
			b.remove(ownerKind, owner)
		}
		if s.other == "gone" {
			b.remove(clusterRoles, second)
		}

		_, err := b.collect(t.Context(), dependent.UID)
		collected, refused := s.fate()
		if got := !b.left(dependentKind, dependent); got != collected {
			t.Errorf("%+v: collected: got %v, want %v (%v)", s, got, collected, err)
		}
		if err != nil != refused {
			t.Errorf("%+v: got error %v, want one: %v", s, err, refused)
		}

		got := strings.Join(drain(b.events), "; ")
		want := ""
		if owner != nil && s.ownerNamespace != "" && s.ownerNamespace != s.dependentNamespace {
			want = fmt.Sprintf("Warning OwnerRefInvalidNamespace ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q",
				ref.APIVersion, ref.Kind, s.dependentNamespace, ref.Name, ref.UID, s.dependentNamespace)
		}
		if got != want {
			t.Errorf("%+v: event:\n got %s\nwant %s", s, got, want)
		}
	}
}

func drain(events *record.FakeRecorder) (all []string) {
	for {
		select {
		case e := <-events.Events:
			all = append(all, e)
		default:
			return all
		}
	}
}

func TestAPathThatIsNotServedIsNoAbsence(t *testing.T) {
	b := newBench(t)
	// Discovery had this once; by now the server knows nothing of it.
	past := served{schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "things"}, schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Thing"}, true}
	b.monitors.kinds[past.kind] = past
	dependent := b.create(configMaps, "here", "dependent", referTo(past, "owner", "some-uid", true))
	if _, err := b.collect(t.Context(), dependent.UID); err == nil {
		t.Error("got no error of an owner whose path is not served")
	}
	if !b.left(configMaps, dependent) {
		t.Error("the dependent was collected")
	}
}

func TestKindsThatAreServedNoMoreAreForgotten(t *testing.T) {
	b := newBench(t)
	past := served{schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "things"}, schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Thing"}, true}
	b.monitors.kinds[past.kind] = past
	if err := b.monitors.refresh(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.monitors.stopAll)
	if _, _, err := b.monitors.resourceOf("example.com/v1", "Thing"); err == nil {
		t.Error("got a resource for a kind that is not served")
	}
	if _, _, err := b.monitors.resourceOf("v1", "ConfigMap"); err != nil {
		t.Error(err)
	}
}

// TestPatienceEnds: a group whose monitors never sync is waited for once, however often they are stopped and
// started, and again when they have synced.
func TestPatienceEnds(t *testing.T) {
	b := newBench(t)
	m := b.monitors
	t.Cleanup(m.stopAll)
	synced := false
	restart := func() {
		t.Helper()
		m.mu.Lock()
		if old := m.all[configMaps.resource]; old != nil {
			old.stop()
			delete(m.all, configMaps.resource)
		}
		m.mu.Unlock()
		if err := m.refresh(); err != nil {
			t.Fatal(err)
		}
		for _, monitor := range m.all {
			monitor.synced = func() bool { return synced }
		}
	}
	restart()
	if m.allSynced() {
		t.Error("nothing is waited for at first")
	}
	for group := range m.patience {
		m.patience[group] = time.Now().Add(-time.Second)
	}
	restart()
	if !m.allSynced() {
		t.Error("a monitor that was started again is waited for again")
	}
	synced = true
	restart()
	if synced = false; m.allSynced() {
		t.Error("a group that had synced is not waited for")
	}
}

// TestOwnersWaitForWhatIsNotKnown: an owner that orphans its dependents keeps its finalizer until all dependents can
// be known, and what has lost its owner does not wait.
func TestOwnersWaitForWhatIsNotKnown(t *testing.T) {
	b := newBench(t)
	owner := b.create(configMaps, "here", "owner")
	b.monitors.all[clusterRoles.resource] = &monitor{synced: func() bool { return false }}
	b.monitors.patience[clusterRoles.resource.Group] = time.Now().Add(time.Hour)
	b.graph.put(&node{identity: identity{configMaps.resource, configMaps.kind.GroupKind(), "here", "owner", owner.UID}, phase: orphaning})
	if again, err := b.collect(t.Context(), owner.UID); err != nil || again != syncPause {
		t.Errorf("the owner: got %v, %v; want to look again", again, err)
	}
	dependent := b.create(configMaps, "here", "dependent", referTo(configMaps, "gone", "some-uid", true))
	if again, err := b.collect(t.Context(), dependent.UID); err != nil || again != 0 || b.left(configMaps, dependent) {
		t.Errorf("the dependent: got %v, %v", again, err)
	}
}
