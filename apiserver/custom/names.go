package custom

import (
	"fmt"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

type (
	allNames  = apiextensionsv1.CustomResourceDefinitionNames
	condition = apiextensionsv1.CustomResourceDefinitionCondition
)

// taken are names that other definitions of a group have.
type taken struct{ resources, kinds map[string]bool }

func newTaken() taken { return taken{make(map[string]bool), make(map[string]bool)} }

func (t taken) add(n allNames) {
	for _, name := range append([]string{n.Plural, n.Singular}, n.ShortNames...) {
		t.resources[name] = true
	}
	t.kinds[n.Kind], t.kinds[n.ListKind] = true, true
}

// accept is what a definition that asks for names and has some gets, where
// others are taken. The condition tells of the last conflict.
func (t taken) accept(asked, has allNames) (allNames, condition) {
	c := condition{Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found"}
	conflict := func(reason string, err error) {
		c.Status, c.Reason, c.Message = apiextensionsv1.ConditionFalse, reason, err.Error()
	}
	gets := has
	one := func(reason, want string, into *string, used map[string]bool) {
		if want != *into && used[want] {
			conflict(reason, inUse(want))
			return
		}
		*into = want
	}
	one("PluralConflict", asked.Plural, &gets.Plural, t.resources)
	one("SingularConflict", asked.Singular, &gets.Singular, t.resources)
	var errs []error
	for _, name := range asked.ShortNames {
		if !slices.Contains(has.ShortNames, name) && t.resources[name] {
			errs = append(errs, inUse(name))
		}
	}
	if err := utilerrors.NewAggregate(errs); err != nil {
		conflict("ShortNamesConflict", err)
	} else {
		gets.ShortNames = asked.ShortNames
	}
	one("KindConflict", asked.Kind, &gets.Kind, t.kinds)
	one("ListKindConflict", asked.ListKind, &gets.ListKind, t.kinds)
	gets.Categories = asked.Categories
	return gets, c
}

func inUse(name string) error { return fmt.Errorf("%q is already in use", name) }

// established is the condition that follows from whether names were accepted.
// What was established once remains so.
func established(d *definition, names condition) condition {
	old := apihelpers.FindCRDCondition(d, apiextensionsv1.Established)
	c := condition{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse, Reason: "NotAccepted", Message: "not all names are accepted"}
	switch {
	case old != nil && (old.Status == apiextensionsv1.ConditionTrue || names.Status != apiextensionsv1.ConditionTrue):
		return *old
	case names.Status != apiextensionsv1.ConditionTrue:
	case !validBundle(d):
		c.Reason, c.Message = "InvalidCABundle", "The conversion webhook CABundle is invalid"
	default:
		c.Status, c.Reason, c.Message = apiextensionsv1.ConditionTrue, "InitialNamesAccepted", "the initial names have been accepted"
	}
	return c
}
