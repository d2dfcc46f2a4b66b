package rbac

import (
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	rbacv1beta1 "k8s.io/api/rbac/v1beta1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/podspec"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func roleBindings() *resource.Resource {
	type binding = rbacv1.RoleBinding
	return resource.Define[rbacv1.RoleBindingList](resource.Definition[binding]{
		Group: rbacv1.GroupName, Version: "v1", Kind: "RoleBinding", Plural: "rolebindings",
		Name:           validName,
		CreateOnUpdate: true,
		Default:        func(b *binding) { defaultBinding(&b.RoleRef, b.Subjects) },
		Validate: func(b, old *binding) field.ErrorList {
			errs := validateRef(b.RoleRef, "Role", "ClusterRole")
			errs = append(errs, validateSubjects(b.Subjects, true)...)
			if old != nil {
				errs = append(errs, validateSameRef(b.RoleRef, old.RoleRef)...)
			}
			return errs
		},
		Columns: bindingColumns("roleBinding", table.Doc(rbacv1beta1.RoleBinding{}, "roleRef"), func(b *binding) (rbacv1.RoleRef, []rbacv1.Subject) { return b.RoleRef, b.Subjects }),
	})
}

func clusterRoleBindings() *resource.Resource {
	type binding = rbacv1.ClusterRoleBinding
	return resource.Define[rbacv1.ClusterRoleBindingList](resource.Definition[binding]{
		Group: rbacv1.GroupName, Version: "v1", Kind: "ClusterRoleBinding", Plural: "clusterrolebindings", ClusterScoped: true,
		Name:           validName,
		CreateOnUpdate: true,
		Default:        func(b *binding) { defaultBinding(&b.RoleRef, b.Subjects) },
		Validate: func(b, old *binding) field.ErrorList {
			errs := validateRef(b.RoleRef, "ClusterRole")
			errs = append(errs, validateSubjects(b.Subjects, false)...)
			if old != nil {
				errs = append(errs, validateSameRef(b.RoleRef, old.RoleRef)...)
			}
			return errs
		},
		Columns: bindingColumns("clusterRoleBinding", table.Doc(rbacv1beta1.ClusterRoleBinding{}, "roleRef"), func(b *binding) (rbacv1.RoleRef, []rbacv1.Subject) { return b.RoleRef, b.Subjects }),
	})
}

func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	if ref.APIGroup == "" {
		ref.APIGroup = rbacv1.GroupName
	}
	for i := range subjects {
		s := &subjects[i]
		if s.APIGroup == "" && (s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind) {
			s.APIGroup = rbacv1.GroupName
		}
	}
}

func validateRef(ref rbacv1.RoleRef, kinds ...string) field.ErrorList {
	path := field.NewPath("roleRef")
	errs := check.Supported(ref.APIGroup, path.Child("apiGroup"), rbacv1.GroupName)
	errs = append(errs, check.Supported(ref.Kind, path.Child("kind"), kinds...)...)
	if ref.Name == "" {
		return append(errs, field.Required(path.Child("name"), ""))
	}
	return append(errs, check.Invalid(path.Child("name"), ref.Name, validName(ref.Name, false))...)
}

func validateSameRef(ref, old rbacv1.RoleRef) field.ErrorList {
	if ref == old {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("roleRef"), podspec.Untagged(ref), "cannot change roleRef")}
}

func validateSubjects(subjects []rbacv1.Subject, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	for i, s := range subjects {
		path := field.NewPath("subjects").Index(i)
		if s.Name == "" {
			errs = append(errs, field.Required(path.Child("name"), ""))
		}
		switch s.Kind {
		case rbacv1.ServiceAccountKind:
			if s.Name != "" {
				errs = append(errs, check.Invalid(path.Child("name"), s.Name, validation.ValidateServiceAccountName(s.Name, false))...)
			}
			errs = append(errs, check.Supported(s.APIGroup, path.Child("apiGroup"), "")...)
			if !namespaced && s.Namespace == "" {
				errs = append(errs, field.Required(path.Child("namespace"), ""))
			}
		case rbacv1.UserKind, rbacv1.GroupKind:
			errs = append(errs, check.Supported(s.APIGroup, path.Child("apiGroup"), rbacv1.GroupName)...)
		default:
			errs = append(errs, field.NotSupported(path.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
		}
	}
	return errs
}

func sameSubjects(a, b []rbacv1.Subject) bool { return equality.Semantic.DeepEqual(a, b) }

// bindingColumns are the columns of both kinds of binding; of takes out what
// they share. The description of the role is that of the beta API.
func bindingColumns[P resource.Object](name, roleDoc string, of func(P) (rbacv1.RoleRef, []rbacv1.Subject)) []resource.Column[P] {
	subjects := func(kind string) func(P) string {
		return func(b P) string {
			_, all := of(b)
			return namesOf(kind, all)
		}
	}
	return []resource.Column[P]{
		resource.NameColumn[P](),
		table.Text("Role", roleDoc, func(b P) string {
			ref, _ := of(b)
			return fmt.Sprintf("%s/%s", ref.Kind, ref.Name)
		}),
		resource.AgeColumn[P](),
		table.Wide(table.Text("Users", "Users in the "+name, subjects(rbacv1.UserKind))),
		table.Wide(table.Text("Groups", "Groups in the "+name, subjects(rbacv1.GroupKind))),
		table.Wide(table.Text("ServiceAccounts", "ServiceAccounts in the "+name, subjects(rbacv1.ServiceAccountKind))),
	}
}

func namesOf(kind string, subjects []rbacv1.Subject) string {
	var names []string
	for _, s := range subjects {
		if s.Kind != kind {
			continue
		}
		if kind == rbacv1.ServiceAccountKind {
			names = append(names, s.Namespace+"/"+s.Name)
			continue
		}
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}
