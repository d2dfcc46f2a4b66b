package authz

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// index finds the bindings of a user without looking at all of them.
type index struct {
	mu       sync.RWMutex
	roles    map[objectKey][]rbacv1.PolicyRule // cluster roles have no namespace
	bindings map[objectKey]*binding
	subjects map[subjectKey][]*binding // by name of binding
}

// objectKey names an object of a kind known from the context.
type objectKey struct{ namespace, name string }

// subjectKey is a subject in a namespace; cluster-wide if that is empty.
// Service accounts are users here.
type subjectKey struct {
	namespace string
	group     bool
	name      string
}

// binding is a RoleBinding or, with an empty namespace, a ClusterRoleBinding.
type binding struct {
	objectKey
	role     rbacv1.RoleRef
	subjects []rbacv1.Subject
}

func newIndex() *index {
	return &index{
		roles:    make(map[objectKey][]rbacv1.PolicyRule),
		bindings: make(map[objectKey]*binding),
		subjects: make(map[subjectKey][]*binding),
	}
}

// replace makes objects all there is of a kind.
func (x *index) replace(plural string, objects []resource.Object) {
	x.mu.Lock()
	defer x.mu.Unlock()
	clustered := strings.HasPrefix(plural, "cluster")
	drop := func(k objectKey) bool { return clustered == (k.namespace == "") }
	switch plural {
	case "roles", "clusterroles":
		for k := range x.roles {
			if drop(k) {
				delete(x.roles, k)
			}
		}
	default:
		for k := range x.bindings {
			if drop(k) {
				x.unbind(k)
			}
		}
	}
	for _, obj := range objects {
		x.set(obj)
	}
}

func (x *index) put(obj resource.Object) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.set(obj)
}

func (x *index) remove(plural string, obj resource.Object) {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := objectKey{obj.GetNamespace(), obj.GetName()}
	switch plural {
	case "roles", "clusterroles":
		delete(x.roles, key)
	default:
		x.unbind(key)
	}
}

func (x *index) set(obj resource.Object) {
	key := objectKey{obj.GetNamespace(), obj.GetName()}
	switch o := obj.(type) {
	case *rbacv1.ClusterRole:
		x.roles[key] = o.Rules
	case *rbacv1.Role:
		x.roles[key] = o.Rules
	case *rbacv1.ClusterRoleBinding:
		x.bind(&binding{key, o.RoleRef, o.Subjects})
	case *rbacv1.RoleBinding:
		x.bind(&binding{key, o.RoleRef, o.Subjects})
	}
}

func (x *index) bind(b *binding) {
	x.unbind(b.objectKey)
	x.bindings[b.objectKey] = b
	for _, key := range b.keys() {
		at, _ := slices.BinarySearchFunc(x.subjects[key], b, func(a, b *binding) int { return cmp.Compare(a.name, b.name) })
		x.subjects[key] = slices.Insert(x.subjects[key], at, b)
	}
}

func (x *index) unbind(key objectKey) {
	b := x.bindings[key]
	if b == nil {
		return
	}
	delete(x.bindings, key)
	for _, k := range b.keys() {
		rest := slices.DeleteFunc(x.subjects[k], func(other *binding) bool { return other == b })
		if len(rest) == 0 {
			delete(x.subjects, k)
		} else {
			x.subjects[k] = rest
		}
	}
}

// keys are the subjects of b, once each.
func (b *binding) keys() []subjectKey {
	var keys []subjectKey
	for _, s := range b.subjects {
		key, ok := b.key(s)
		if ok && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// key says under which subject s is found. A service account without a
// namespace is one of the binding's, so of none in a cluster role binding.
func (b *binding) key(s rbacv1.Subject) (subjectKey, bool) {
	switch s.Kind {
	case rbacv1.UserKind:
		return subjectKey{b.namespace, false, s.Name}, true
	case rbacv1.GroupKind:
		return subjectKey{b.namespace, true, s.Name}, true
	case rbacv1.ServiceAccountKind:
		namespace := cmp.Or(s.Namespace, b.namespace)
		return subjectKey{b.namespace, false, serviceaccount.MakeUsername(namespace, s.Name)}, namespace != ""
	}
	return subjectKey{}, false
}

func (x *index) rules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.lookup(ref, namespace)
}

func (x *index) lookup(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, bool) {
	if ref.Kind == "ClusterRole" {
		namespace = ""
	} else if namespace == "" {
		return nil, false
	}
	rules, ok := x.roles[objectKey{namespace, ref.Name}]
	return rules, ok
}

// grant is a binding that applies to a user, with the rules of its role.
// missing says that there is no such role.
type grant struct {
	*binding
	subject subjectKey
	rules   []rbacv1.PolicyRule
	missing string
}

// String names the grant as a SubjectAccessReview gives it as the reason.
func (g grant) String() string {
	kind, name := "ClusterRoleBinding", g.name
	if g.namespace != "" {
		kind, name = "RoleBinding", g.name+"/"+g.namespace
	}
	to := ""
	for _, s := range g.subjects {
		if key, ok := g.key(s); !ok || key != g.subject {
			continue
		}
		to = fmt.Sprintf("%s %q", s.Kind, s.Name)
		if s.Kind == rbacv1.ServiceAccountKind {
			to = fmt.Sprintf("%s %q", s.Kind, s.Name+"/"+cmp.Or(s.Namespace, g.namespace))
		}
		break
	}
	return fmt.Sprintf("%s %q of %s %q to %s", kind, name, g.role.Kind, g.role.Name, to)
}

// grants yields what applies to u: first cluster-wide, then in namespace. The
// index is locked for reading meanwhile.
func (x *index) grants(u user.Info, namespace string) iter.Seq[grant] {
	return func(yield func(grant) bool) {
		x.mu.RLock()
		defer x.mu.RUnlock()
		scopes := []string{""}
		if namespace != "" {
			scopes = append(scopes, namespace)
		}
		for _, scope := range scopes {
			if !x.yieldGrants(subjectKey{scope, false, u.GetName()}, yield) {
				return
			}
			for _, group := range u.GetGroups() {
				if !x.yieldGrants(subjectKey{scope, true, group}, yield) {
					return
				}
			}
		}
	}
}

func (x *index) yieldGrants(key subjectKey, yield func(grant) bool) bool {
	for _, b := range x.subjects[key] {
		g := grant{binding: b, subject: key}
		var found bool
		if g.rules, found = x.lookup(b.role, b.namespace); !found {
			g.missing = fmt.Sprintf("%s.%s %q not found", strings.ToLower(b.role.Kind), rbacv1.GroupName, b.role.Name)
		}
		if !yield(g) {
			return false
		}
	}
	return true
}
