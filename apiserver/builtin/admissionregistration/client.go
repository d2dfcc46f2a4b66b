package admissionregistration

import (
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
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
		return check.WebhookURL(*c.URL, at.Child("url"))
	}
	s := c.Service
	return check.WebhookService(s.Namespace, s.Name, ptr.Deref(s.Port, 0), ptr.Deref(s.Path, ""), at.Child("service"))
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
