// Package rbac holds the kinds of rbac.authorization.k8s.io. That nobody grants
// rights they do not have themselves is decided in admission, where the user is
// known: see Rules and RoleRefs for what it has to look at.
package rbac

import (
	"k8s.io/apimachinery/pkg/api/validation/path"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Resources are the rows of the group in the order of discovery.
func Resources() []*resource.Resource {
	return []*resource.Resource{clusterRoleBindings(), clusterRoles(), roleBindings(), roles()}
}

// GrantedRules are the rules a write of a role would grant anew: those of obj,
// or nil if obj is no role or its rules are those of old. aggregated reports
// that the object collects the rules of other roles, whatever they may be.
func GrantedRules(obj, old resource.Object) (rules []rbacv1.PolicyRule, aggregated bool) {
	switch role := obj.(type) {
	case *rbacv1.Role:
		before, _ := old.(*rbacv1.Role)
		if before != nil && sameRules(role.Rules, before.Rules) {
			return nil, false
		}
		return role.Rules, false
	case *rbacv1.ClusterRole:
		before, _ := old.(*rbacv1.ClusterRole)
		if before != nil && sameRules(role.Rules, before.Rules) && sameAggregation(role, before) {
			return nil, false
		}
		return role.Rules, role.AggregationRule != nil && (before == nil || !sameAggregation(role, before))
	}
	return nil, false
}

// GrantedRole is the role a write of a binding would grant to somebody anew;
// ok is false if obj is no binding or grants what old granted to the same
// subjects.
func GrantedRole(obj, old resource.Object) (ref rbacv1.RoleRef, ok bool) {
	switch b := obj.(type) {
	case *rbacv1.RoleBinding:
		before, _ := old.(*rbacv1.RoleBinding)
		return b.RoleRef, before == nil || before.RoleRef != b.RoleRef || !sameSubjects(b.Subjects, before.Subjects)
	case *rbacv1.ClusterRoleBinding:
		before, _ := old.(*rbacv1.ClusterRoleBinding)
		return b.RoleRef, before == nil || before.RoleRef != b.RoleRef || !sameSubjects(b.Subjects, before.Subjects)
	}
	return rbacv1.RoleRef{}, false
}

// validName allows colons and upper case, as in system:node-proxier.
func validName(name string, prefix bool) []string { return path.ValidatePathSegmentName(name, prefix) }
