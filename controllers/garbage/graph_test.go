package garbage

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// object makes a node of kind Thing with owners of that kind.
func object(name string, p phase, owners ...metav1.OwnerReference) *node {
	return &node{identity: identity{resource: schema.GroupVersionResource{Version: "v1", Resource: "things"}, kind: schema.GroupKind{Kind: "Thing"}, namespace: "ns", name: name, uid: uid(name)}, phase: p, owners: owners}
}

func ownedBy(name string, block bool) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "v1", Kind: "Thing", Name: name, UID: uid(name), BlockOwnerDeletion: &block}
}

func TestGraphSaysWhomAChangeConcerns(t *testing.T) {
	for _, test := range []struct {
		name   string
		before []*node
		change func(*graph)
		want   []uid
	}{
		{"an object without owners", nil, func(g *graph) { g.put(object("a", living)) }, nil},
		{"its owner is there", []*node{object("o", living)}, func(g *graph) { g.put(object("a", living, ownedBy("o", true))) }, nil},
		{"its owner is not known", nil, func(g *graph) { g.put(object("a", living, ownedBy("o", true))) }, []uid{"a"}},
		{"its owner has another name", []*node{object("o", living)}, func(g *graph) {
			ref := ownedBy("o", true)
			ref.Name = "x"
			g.put(object("a", living, ref))
		}, []uid{"a"}},
		{"its owner goes", []*node{object("o", living), object("a", living, ownedBy("o", true))}, func(g *graph) { g.remove("o") }, []uid{"a"}},
		{"its owner waits for it", []*node{object("o", living), object("a", living, ownedBy("o", true))}, func(g *graph) { g.put(object("o", foreground)) }, []uid{"a", "o"}},
		{"its owner orphans it", []*node{object("o", living), object("a", living, ownedBy("o", true))}, func(g *graph) { g.put(object("o", orphaning)) }, []uid{"a", "o"}},
		{"its owner is deleted without waiting", []*node{object("o", living), object("a", living, ownedBy("o", true))}, func(g *graph) { g.put(object("o", deleting)) }, nil},
		{"the owner waited for it", []*node{object("o", foreground), object("a", living, ownedBy("o", true))}, func(g *graph) { g.remove("a") }, []uid{"o"}},
		{"it holds its owner back no more", []*node{object("o", foreground), object("a", living, ownedBy("o", true))}, func(g *graph) { g.put(object("a", living, ownedBy("o", false))) }, []uid{"a", "o"}},
		{"it lost its owner", []*node{object("o", living), object("a", living, ownedBy("o", true))}, func(g *graph) { g.put(object("a", living)) }, nil},
		{"it was there before its owner", []*node{object("a", living, ownedBy("o", true))}, func(g *graph) { g.put(object("o", living)) }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			concerned := map[uid]bool{}
			g := newGraph(func(id uid) { concerned[id] = true }, func(*node, metav1.OwnerReference) {})
			for _, n := range test.before {
				g.put(n)
			}
			clear(concerned)
			test.change(g)
			var got []uid
			for id := range concerned {
				got = append(got, id)
			}
			slices.Sort(got)
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestGraphBlockers(t *testing.T) {
	g := newGraph(func(uid) {}, func(*node, metav1.OwnerReference) {})
	owner := object("o", foreground)
	for _, n := range []*node{owner, object("a", living, ownedBy("o", true)), object("b", living, ownedBy("o", false)), object("c", living)} {
		g.put(n)
	}
	if got := g.blockers(owner); len(got) != 1 || got[0].name != "a" {
		t.Errorf("got %d blockers, want a", len(got))
	}
	g.remove("a")
	if got := g.blockers(owner); len(got) != 0 {
		t.Errorf("got %d blockers, want none", len(got))
	}
}

func TestGraphRemembersAbsence(t *testing.T) {
	g := newGraph(func(uid) {}, func(*node, metav1.OwnerReference) {})
	b, clusterScoped := object("b", living, ownedBy("o", false)), object("c", living, ownedBy("o", false))
	clusterScoped.namespace = ""
	otherVersion := ownedBy("o", false)
	otherVersion.APIVersion = "v9"
	for _, n := range []*node{object("o", living), b, clusterScoped, object("d", living, otherVersion)} {
		g.put(n)
	}
	if g.knownAbsent(b, b.owners[0]) {
		t.Error("the owner is there")
	}
	g.remove("o")
	g.put(object("b", living, ownedBy("o", true)))
	for _, test := range []struct {
		name      string
		dependent *node
		ref       metav1.OwnerReference
		want      bool
	}{
		{"named as it was", b, b.owners[0], true},
		{"named from outside of its namespace", clusterScoped, b.owners[0], false},
		{"named in another version", b, otherVersion, false},
	} {
		if got := g.knownAbsent(test.dependent, test.ref); got != test.want {
			t.Errorf("%s: absent: got %v, want %v", test.name, got, test.want)
		}
	}
	for _, id := range []uid{"b", "c", "d"} {
		g.remove(id)
	}
	if len(g.absent) != 0 {
		t.Errorf("an owner without dependents need not be remembered: got %v", g.absent)
	}
}

func TestGraphForgetsWhatIsWatchedNoMore(t *testing.T) {
	concerned := map[uid]bool{}
	g := newGraph(func(id uid) { concerned[id] = true }, func(*node, metav1.OwnerReference) {})
	dependent := object("a", living, ownedBy("o", false))
	dependent.resource.Resource = "others"
	g.put(object("o", living))
	g.put(dependent)
	clear(concerned)
	g.forget(object("o", living).resource)
	if g.get("o") != nil || g.get("a") == nil {
		t.Error("forgot the wrong objects")
	}
	if !concerned["a"] {
		t.Error("a dependent of what was forgotten was not woken")
	}
	if g.knownAbsent(dependent, dependent.owners[0]) {
		t.Error("what was forgotten counts as absent")
	}
}

func TestPhaseOf(t *testing.T) {
	at := &metav1.Time{Time: time.Now()}
	for _, test := range []struct {
		name string
		meta metav1.ObjectMeta
		want phase
	}{
		{"lives", metav1.ObjectMeta{Finalizers: []string{metav1.FinalizerOrphanDependents}}, living},
		{"goes", metav1.ObjectMeta{DeletionTimestamp: at, Finalizers: []string{"other"}}, deleting},
		{"waits", metav1.ObjectMeta{DeletionTimestamp: at, Finalizers: []string{metav1.FinalizerDeleteDependents}}, foreground},
		{"orphans", metav1.ObjectMeta{DeletionTimestamp: at, Finalizers: []string{metav1.FinalizerOrphanDependents}}, orphaning},
	} {
		if got := phaseOf(&test.meta); got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, got, test.want)
		}
	}
}
