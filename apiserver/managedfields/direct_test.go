package managedfields

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/apiserver/builtin"
	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/resource/resourcetest"
)

// TestDirect has objects of all kinds, with random fields, created and changed again and again by a few managers, and holds
// that the managed fields are those that the library makes, byte for byte.
func TestDirect(t *testing.T) {
	rounds := uint64(12)
	if testing.Short() {
		rounds = 2
	}
	asked, direct := 0, 0
	for _, r := range builtin.Resources(builtin.Deps{}) {
		t.Run(r.GVR().String(), func(t *testing.T) {
			p := newPair(t, r)
			if p == nil {
				t.Skip("the kind is the library's")
			}
			for seed := range rounds {
				p.history(t, seed)
			}
			if p.direct == 0 {
				t.Errorf("the library was needed for all of %d updates", p.asked)
			}
			asked, direct = asked+p.asked, direct+p.direct
		})
	}
	if direct < asked/3 { // random lists have elements that are there twice more often than real ones
		t.Errorf("of %d updates the library was needed for %d", asked, asked-direct)
	}
}

// FuzzDirect is TestDirect for pods, with what the fuzzer wants.
func FuzzDirect(f *testing.F) {
	f.Add(uint64(1))
	pods := rowOf(f, "pods")
	f.Fuzz(func(t *testing.T, seed uint64) { newPair(t, pods).history(t, seed) })
}

func rowOf(t testing.TB, plural string) *resource.Resource {
	t.Helper()
	for _, r := range builtin.Resources(builtin.Deps{}) {
		if r.Plural == plural {
			return r
		}
	}
	t.Fatalf("no kind %s", plural)
	return nil
}

// pair is the two ways to keep the managed fields of a kind, by each path.
type pair struct {
	r             *resource.Resource
	fields        map[string]*fieldManager // by subresource
	asked, direct int
}

func newPair(t *testing.T, r *resource.Resource) *pair {
	t.Helper()
	p := &pair{r: r, fields: make(map[string]*fieldManager)}
	var m Managers
	subs := []string{""}
	for _, s := range r.Subresources {
		if s.View {
			subs = append(subs, s.Name)
		}
	}
	for _, sub := range subs {
		f, err := m.manager(r, sub)
		if err != nil {
			t.Fatal(err)
		}
		if f.direct == nil {
			return nil
		}
		p.fields[sub] = f
	}
	return p
}

// update is one write, by both ways.
func (p *pair) update(t *testing.T, what, sub string, live, obj resource.Object, manager string) resource.Object {
	t.Helper()
	want := obj.DeepCopyObject().(resource.Object)
	p.fields[sub].library.UpdateNoErrors(codec.As(live, p.r.GVK()), want, manager)
	p.asked++
	before, untouched := live.DeepCopyObject(), obj.DeepCopyObject()
	if !p.fields[sub].direct.update(live, obj, manager) {
		if !reflect.DeepEqual(untouched, obj) {
			t.Fatalf("%s: an object that was left to the library was changed: -want +got\n%s", what, cmp.Diff(untouched, obj))
		}
		return want
	}
	p.direct++
	if !reflect.DeepEqual(before, live) {
		t.Fatalf("%s: the live object was changed", what)
	}
	if diff := cmp.Diff(texts(want.GetManagedFields()), texts(obj.GetManagedFields())); diff != "" {
		t.Fatalf("%s: managed fields: -library +direct\n%s", what, diff)
	}
	if !reflect.DeepEqual(want, obj) {
		t.Fatalf("%s: the object differs: -library +direct\n%s", what, cmp.Diff(want, obj))
	}
	return obj
}

// texts are entries as people can compare them.
func texts(entries []metav1.ManagedFieldsEntry) (out []string) {
	for _, e := range entries {
		out = append(out, fmt.Sprintf("%s %s %s %q %v %s %s", e.Manager, e.Operation, e.APIVersion, e.Subresource, e.Time, e.FieldsType, e.FieldsV1.GetRawString()))
	}
	return out
}

// history is the life of one object.
func (p *pair) history(t *testing.T, seed uint64) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 2))
	synctest.Test(t, func(t *testing.T) {
		live := p.r.New()
		live.GetObjectKind().SetGroupVersionKind(p.r.GVK())
		obj := p.random(random)
		obj.SetUID("")
		for step := range 12 {
			sub := p.anySub(random, step)
			manager := []string{"alice", "bob", "", "carl"}[random.IntN(4)]
			live = p.update(t, fmt.Sprintf("seed %d, step %d, by %q at %q", seed, step, manager, sub), sub, live, obj, manager)
			live.SetUID(types.UID(fmt.Sprint("uid-", seed)))
			time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
			obj = p.changed(live, random)
		}
	})
}

func (p *pair) anySub(random *rand.Rand, step int) string {
	if step == 0 || random.IntN(2) == 0 {
		return ""
	}
	subs := slices.Sorted(maps.Keys(p.fields))
	return subs[random.IntN(len(subs))]
}

func (p *pair) random(random *rand.Rand) resource.Object {
	obj := p.r.New()
	resourcetest.Fill(obj, random)
	obj.SetManagedFields(nil)
	return p.stored(obj)
}

// stored is obj with its kind, as it comes out of the store.
func (p *pair) stored(obj resource.Object) resource.Object {
	obj.GetObjectKind().SetGroupVersionKind(p.r.GVK())
	return obj
}

// changed is another object with the managed fields of live, or what a client may send in their place.
func (p *pair) changed(live resource.Object, random *rand.Rand) resource.Object {
	obj := live.DeepCopyObject().(resource.Object)
	switch random.IntN(8) {
	case 0: // nothing else
	case 1:
		obj = p.random(random)
		obj.SetUID(live.GetUID())
	case 2:
		obj.SetManagedFields(nil)
		resourcetest.Change(obj, random)
	case 3:
		if entries := obj.GetManagedFields(); len(entries) > 0 {
			e := &entries[random.IntN(len(entries))]
			e.Operation = metav1.ManagedFieldsOperationApply
			e.FieldsV1.SetRawString([]string{`{}`, `{"f:metadata":{"f:labels":{"f:b":{},"f:a":{}}},"f:spec":{".":{},"f:replicas":{}}}`, `{"x:y":{},"f:data":{}}`,
				`{"f:spec":{"f:selector":{"f:matchLabels":{}}}}`, `[]`}[random.IntN(5)])
		}
		resourcetest.Change(obj, random)
	case 4:
		obj.SetManagedFields([]metav1.ManagedFieldsEntry{})
	default:
		resourcetest.Change(obj, random)
	}
	return p.stored(obj)
}

func TestDirectLeavesToTheLibrary(t *testing.T) {
	p := newPair(t, rowOf(t, "pods"))
	pod := func(names ...string) *corev1.Pod {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
		for _, name := range names {
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: name})
		}
		return p.stored(pod).(*corev1.Pod)
	}
	for name, c := range map[string]struct {
		obj  *corev1.Pod
		want bool
	}{
		"one of each name":  {pod("a", "b"), true},
		"a name twice":      {pod("a", "a"), false},
		"many side by side": {pod(make([]string, mostAside+1)...), false},
	} {
		if got := p.fields[""].direct.update(p.stored(&corev1.Pod{}), c.obj, "m"); got != c.want {
			t.Errorf("%s: direct = %v, want %v", name, got, c.want)
		}
	}
}

// A write that changes nothing leaves the time of its manager as it was.
func TestDirectKeepsTime(t *testing.T) {
	p := newPair(t, rowOf(t, "configmaps"))
	synctest.Test(t, func(t *testing.T) {
		written := func(live resource.Object, value string) resource.Object {
			obj := p.stored(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", UID: live.GetUID()}, Data: map[string]string{"k": value}})
			if !p.fields[""].direct.update(live, obj, "m") {
				t.Fatal("it is left to the library")
			}
			obj.SetUID("u")
			return obj
		}
		first := written(p.stored(&corev1.ConfigMap{}), "v")
		time.Sleep(time.Minute)
		same, other := written(first, "v"), written(first, "w")
		if diff := cmp.Diff(first.GetManagedFields(), same.GetManagedFields()); diff != "" {
			t.Errorf("the same again: -before +after\n%s", diff)
		}
		if before, after := first.GetManagedFields()[0].Time, other.GetManagedFields()[0].Time; !before.Before(after) {
			t.Errorf("another value: the time was %v and is %v", before, after)
		}
	})
}

func TestSetsAreBounded(t *testing.T) {
	p := newPair(t, rowOf(t, "pods"))
	s := &p.fields[""].direct.sets
	for i := range 3 * mostSets {
		if _, err := s.get(&metav1.FieldsV1{Raw: fmt.Appendf(nil, `{"f:spec":{"f:x%d":{}}}`, i)}, p.fields[""].direct.empty); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.known) > mostSets {
		t.Errorf("%d are remembered, want at most %d", len(s.known), mostSets)
	}
}

// BenchmarkUpdate is what field management costs, by this package and by the library.
func BenchmarkUpdate(b *testing.B) {
	running := corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}, Conditions: []corev1.PodCondition{
		{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.ContainersReady, Status: corev1.ConditionTrue}}}
	pod := func() *corev1.Pod {
		return &corev1.Pod{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"app": "shop", "tier": "web"}},
			Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{
				Name: "main", Image: "registry.example/app:1.2.3", Ports: []corev1.ContainerPort{{ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
				Env: []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}}}}},
		}
	}
	var m Managers
	pods := rowOf(b, "pods")
	for _, c := range []struct{ name, sub string }{{"create", ""}, {"status", "status"}} {
		fields, err := m.manager(pods, c.sub)
		if err != nil {
			b.Fatal(err)
		}
		live := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
		if c.sub != "" {
			created, err := m.manager(pods, "")
			if err != nil {
				b.Fatal(err)
			}
			full := pod()
			created.library.UpdateNoErrors(live, full, "creator")
			live = full
			live.UID = "u"
		}
		for way, update := range map[string]func(obj resource.Object){
			"direct":  func(obj resource.Object) { fields.direct.update(live, obj, "m") },
			"library": func(obj resource.Object) { fields.library.UpdateNoErrors(live, obj, "m") },
		} {
			b.Run(c.name+"/"+way, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					obj := *live
					if c.sub == "" {
						obj = *pod()
					} else {
						obj.Status = running
					}
					update(&obj)
					if len(obj.ManagedFields) == 0 {
						b.Fatal("nothing was recorded")
					}
				}
			})
		}
	}
}
