package admissionregistration

import (
	"fmt"
	"net/url"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
	"github.com/skiff-k8s/skiff/apiserver/expression"
)

func validateClient(c admissionregistrationv1.WebhookClientConfig, at *field.Path) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(at, "exactly one of url or service is required")}
	case c.URL != nil:
		return validateURL(*c.URL, at.Child("url"))
	}
	return validateService(c.Service, at.Child("service"))
}

func validateURL(text string, at *field.Path) field.ErrorList {
	const form = "; desired format: https://host[/path]"
	u, err := url.Parse(text)
	if err != nil {
		return field.ErrorList{field.Required(at, "url must be a valid URL: "+err.Error()+form)}
	}
	var errs field.ErrorList
	if u.Scheme != "https" {
		errs = append(errs, field.Invalid(at, u.Scheme, "'https' is the only allowed URL scheme"+form))
	}
	if u.Host == "" {
		errs = append(errs, field.Invalid(at, u.Host, "host must be specified"+form))
	}
	if u.User != nil {
		errs = append(errs, field.Invalid(at, u.User.String(), "user information is not permitted in the URL"))
	}
	if u.Fragment != "" {
		errs = append(errs, field.Invalid(at, u.Fragment, "fragments are not permitted in the URL"))
	}
	if u.RawQuery != "" {
		errs = append(errs, field.Invalid(at, u.RawQuery, "query parameters are not permitted in the URL"))
	}
	return errs
}

// validateService names the wrong one of name and namespace where one is missing, as kube-apiserver does.
func validateService(s *admissionregistrationv1.ServiceReference, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Namespace == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	if s.Name == "" {
		errs = append(errs, field.Required(at.Child("namespace"), ""))
	}
	port := ptr.Deref(s.Port, 0)
	if problems := validation.IsValidPortNum(int(port)); len(problems) > 0 {
		errs = append(errs, field.Invalid(at.Child("port"), port, "port is not valid: "+strings.Join(problems, ", ")))
	}
	return append(errs, validatePath(ptr.Deref(s.Path, ""), at.Child("path"))...)
}

// validatePath requires segments that are DNS subdomains.
func validatePath(path string, at *field.Path) field.ErrorList {
	switch path {
	case "", "/":
		return nil
	case "//":
		return field.ErrorList{field.Invalid(at, path, "segment[0] may not be empty")}
	}
	var errs field.ErrorList
	if !strings.HasPrefix(path, "/") {
		errs = append(errs, field.Invalid(at, path, "must start with a '/'"))
	}
	for i, segment := range strings.Split(strings.TrimSuffix(path[1:], "/"), "/") {
		if segment == "" {
			errs = append(errs, field.Invalid(at, path, fmt.Sprintf("segment[%d] may not be empty", i)))
			continue
		}
		for _, problem := range validation.IsDNS1123Subdomain(segment) {
			errs = append(errs, field.Invalid(at, path, fmt.Sprintf("segment[%d]: %v", i, problem)))
		}
	}
	return errs
}

const maxConditions = 64

// validateConditions judges match conditions; compile says what is wrong with a text.
func validateConditions(conditions []admissionregistrationv1.MatchCondition, at *field.Path, compile func(text string, at *field.Path) field.ErrorList) field.ErrorList {
	var errs field.ErrorList
	if len(conditions) > maxConditions {
		errs = append(errs, field.TooMany(at, len(conditions), maxConditions))
	}
	names := make(map[string]bool)
	for i, c := range conditions {
		place := at.Index(i).Child("expression")
		if text := strings.TrimSpace(c.Expression); text == "" {
			errs = append(errs, field.Required(place, ""))
		} else {
			errs = append(errs, compile(text, place)...)
		}
		name := at.Index(i).Child("name")
		if c.Name == "" {
			errs = append(errs, field.Required(name, ""))
			continue
		}
		errs = append(errs, check.Qualified(c.Name, name)...)
		if names[c.Name] {
			errs = append(errs, field.Duplicate(name, c.Name))
		}
		names[c.Name] = true
	}
	return errs
}

// validateHookConditions compiles the match conditions of a webhook; known have been accepted before.
func validateHookConditions(conditions []admissionregistrationv1.MatchCondition, known map[string]bool, at *field.Path) field.ErrorList {
	return validateConditions(conditions, at, func(text string, at *field.Path) field.ErrorList {
		if _, err := expression.Compile(text, known[text]); err != nil {
			return field.ErrorList{field.Invalid(at, text, err.Error())}
		}
		return nil
	})
}
