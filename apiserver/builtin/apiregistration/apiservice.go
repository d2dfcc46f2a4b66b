// Package apiregistration holds the kind of apiregistration.k8s.io: who serves
// which group version. What follows from it is in package aggregate.
package apiregistration

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

type apiService = apiregistrationv1.APIService

// Resources are the rows of the group.
func Resources() []*resource.Resource {
	return []*resource.Resource{resource.Define[apiregistrationv1.APIServiceList](resource.Definition[apiService]{
		Group: apiregistrationv1.GroupName, Version: "v1", Kind: "APIService", Plural: "apiservices", Prefix: apiregistrationv1.GroupName + "/apiservices",
		Categories:    []string{"api-extensions"},
		ClusterScoped: true,
		Default:       apiregistrationv1.SetObjectDefaults_APIService,
		Prepare:       prepare,
		Validate:      func(s, _ *apiService) field.ErrorList { return validate(s) },
		Name:          func(name string, _ bool) []string { return content.IsPathSegmentName(name) },
		Meta:          resource.MetaAnyFinalizer,
		NeedsVersion:  true,
		Columns: []resource.Column[*apiService]{
			resource.NameColumn[*apiService](),
			table.Text("Service", "The reference to the service that hosts this API endpoint.", host),
			table.Text("Available", "Whether this service is available.", available),
			resource.AgeColumn[*apiService](),
		},
		Subresources: []resource.Subresource[apiService]{{
			Name: "status", View: true, Reset: []string{"spec", "metadata"},
			Prepare: func(s, old *apiService) {
				s.Spec = old.Spec
				s.Labels, s.Annotations = old.Labels, old.Annotations
				s.Finalizers, s.OwnerReferences = old.Finalizers, old.OwnerReferences
			},
			Validate: func(s, _ *apiService) field.ErrorList { return validateStatus(&s.Status) },
		}},
	})}
}

// prepare keeps clients from setting the status. What this server serves itself
// is available as soon as it is known.
func prepare(s, old *apiService) {
	if old != nil {
		s.Status = *old.Status.DeepCopy()
		return
	}
	s.Status = apiregistrationv1.APIServiceStatus{}
	if s.Spec.Service == nil {
		helper.SetAPIServiceCondition(s, helper.NewLocalAvailableAPIServiceCondition())
	}
}

func host(s *apiService) string {
	if s.Spec.Service == nil {
		return "Local"
	}
	return s.Spec.Service.Namespace + "/" + s.Spec.Service.Name
}

func available(s *apiService) string {
	c := helper.GetAPIServiceConditionByType(s, apiregistrationv1.Available)
	switch {
	case c == nil:
		return string(apiregistrationv1.ConditionUnknown)
	case c.Status == apiregistrationv1.ConditionTrue || c.Reason == "":
		return string(c.Status)
	}
	return fmt.Sprintf("%s (%s)", c.Status, c.Reason)
}

func validate(s *apiService) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateName(s)
	if s.Spec.Group == "" && s.Spec.Version != "v1" {
		errs = append(errs, field.Required(path.Child("group"), "only v1 may have an empty group and it better be legacy kube"))
	}
	if s.Spec.Group != "" {
		for _, text := range validation.IsDNS1123Subdomain(s.Spec.Group) {
			errs = append(errs, field.Invalid(path.Child("group"), s.Spec.Group, text))
		}
	}
	for _, text := range validation.IsDNS1035Label(s.Spec.Version) {
		errs = append(errs, field.Invalid(path.Child("version"), s.Spec.Version, text))
	}
	for _, p := range []struct {
		name        string
		value, most int32
	}{{"groupPriorityMinimum", s.Spec.GroupPriorityMinimum, 20000}, {"versionPriority", s.Spec.VersionPriority, 1000}} {
		if p.value <= 0 || p.value > p.most {
			errs = append(errs, field.Invalid(path.Child(p.name), p.value, fmt.Sprintf("must be positive and less than %d", p.most)))
		}
	}
	if s.Spec.Service == nil {
		return append(errs, validateLocal(&s.Spec, path)...)
	}
	return append(errs, validateRemote(&s.Spec, path)...)
}

// validateName wants the name to say what is served. Names that can be none at
// all are judged by the kind's Name.
func validateName(s *apiService) field.ErrorList {
	want := s.Spec.Version + "." + s.Spec.Group
	var errs field.ErrorList
	for _, n := range []struct{ field, value string }{{"generateName", s.GenerateName}, {"name", s.Name}} {
		if n.value != "" && n.value != want && len(content.IsPathSegmentName(n.value)) == 0 {
			errs = append(errs, field.Invalid(field.NewPath("metadata", n.field), n.value,
				fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want)))
		}
	}
	return errs
}

func validateLocal(s *apiregistrationv1.APIServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := len(s.CABundle); n > 0 {
		errs = append(errs, field.Invalid(path.Child("caBundle"), fmt.Sprintf("%d bytes", n), "local APIServices may not have a caBundle"))
	}
	if s.InsecureSkipTLSVerify {
		errs = append(errs, field.Invalid(path.Child("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify"))
	}
	return errs
}

func validateRemote(s *apiregistrationv1.APIServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	service := path.Child("service")
	if s.Service.Namespace == "" {
		errs = append(errs, field.Required(service.Child("namespace"), ""))
	}
	if s.Service.Name == "" {
		errs = append(errs, field.Required(service.Child("name"), ""))
	}
	if texts := validation.IsValidPortNum(int(*s.Service.Port)); texts != nil {
		errs = append(errs, field.Invalid(service.Child("port"), *s.Service.Port, "port is not valid: "+strings.Join(texts, ", ")))
	}
	if s.InsecureSkipTLSVerify && len(s.CABundle) > 0 {
		errs = append(errs, field.Invalid(path.Child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present"))
	}
	return errs
}

func validateStatus(s *apiregistrationv1.APIServiceStatus) field.ErrorList {
	var errs field.ErrorList
	for i, c := range s.Conditions {
		errs = append(errs, check.Supported(c.Status, field.NewPath("status", "conditions").Index(i).Child("status"),
			apiregistrationv1.ConditionTrue, apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionUnknown)...)
	}
	return errs
}
