package custom

import (
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/transport"
)

// plan is the status a definition is to have, purely: names it gets beside
// those that are taken, and what is to be said of its schema and its group.
func plan(d *definition, others taken) apiextensionsv1.CustomResourceDefinitionStatus {
	next := d.DeepCopy()
	names, accepted := others.accept(d.Spec.Names, d.Status.AcceptedNames)
	next.Status.AcceptedNames = names
	set(next, accepted)
	set(next, established(d, accepted))
	if c := nonStructural(d); c != nil {
		set(next, *c)
	} else if apihelpers.FindCRDCondition(next, apiextensionsv1.NonStructuralSchema) != nil {
		apihelpers.RemoveCRDCondition(next, apiextensionsv1.NonStructuralSchema)
	}
	if c := approval(d); c != nil {
		set(next, *c)
	}
	if equality.Semantic.DeepEqual(d.Status, next.Status) {
		return d.Status
	}
	return next.Status
}

// set replaces a condition unless it says the same already.
func set(d *definition, c condition) {
	if !apihelpers.IsCRDConditionEquivalent(apihelpers.FindCRDCondition(d, c.Type), &c) {
		apihelpers.SetCRDCondition(d, c)
	}
}

// validBundle reports whether a conversion webhook can be called.
func validBundle(d *definition) bool {
	c := d.Spec.Conversion
	if c == nil || c.Webhook == nil || c.Webhook.ClientConfig == nil {
		return true
	}
	_, err := transport.TLSConfigFor(&transport.Config{TLS: transport.TLSConfig{CAData: c.Webhook.ClientConfig.CABundle}})
	return err == nil
}

// nonStructural tells of schemas that were stored before they had to be
// structural; nil if there are none.
func nonStructural(d *definition) *condition {
	if !d.Spec.PreserveUnknownFields {
		return nil // validation requires it
	}
	errs := field.ErrorList{field.Invalid(field.NewPath("spec", "preserveUnknownFields"), true, "must be false")}
	for i, v := range d.Spec.Versions {
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			continue
		}
		var in apiextensions.CustomResourceValidation
		if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(v.Schema, &in, nil); err != nil {
			continue
		}
		s, err := schema.NewStructural(in.OpenAPIV3Schema)
		if err != nil {
			return &condition{Type: apiextensionsv1.NonStructuralSchema, Status: apiextensionsv1.ConditionUnknown, Reason: "StructuralError",
				Message: fmt.Sprintf("failed to check validation schema for version %s: %v", v.Name, err)}
		}
		errs = append(errs, schema.ValidateStructural(field.NewPath("spec", "versions").Index(i).Child("schema", "openAPIV3Schema"), s)...)
	}
	return &condition{Type: apiextensionsv1.NonStructuralSchema, Status: apiextensionsv1.ConditionTrue, Reason: "Violations", Message: errs.ToAggregate().Error()}
}

// approval tells how a group of Kubernetes itself was approved; nil for others.
func approval(d *definition) *condition {
	if !apihelpers.IsProtectedCommunityGroup(d.Spec.Group) {
		return nil
	}
	state, text := apihelpers.GetAPIApprovalState(d.Annotations)
	c := &condition{Type: apiextensionsv1.KubernetesAPIApprovalPolicyConformant, Status: apiextensionsv1.ConditionFalse, Message: text}
	switch state {
	case apihelpers.APIApproved:
		c.Status, c.Reason = apiextensionsv1.ConditionTrue, "ApprovedAnnotation"
	case apihelpers.APIApprovalBypassed:
		c.Reason = "UnapprovedAnnotation"
	case apihelpers.APIApprovalMissing:
		c.Reason = "MissingAnnotation"
	default:
		c.Reason = "InvalidAnnotation"
	}
	return c
}
