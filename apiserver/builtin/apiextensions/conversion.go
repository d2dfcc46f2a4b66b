package apiextensions

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/transport"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
)

// reviewVersions are those of ConversionReview that kube-apiserver knows.
var reviewVersions = []string{"v1", "v1beta1"}

func (r rules) conversion(c *internal.CustomResourceConversion, at *field.Path) field.ErrorList {
	if c == nil {
		return nil
	}
	errs := check.OneOf(c.Strategy, at.Child("strategy"), internal.NoneConverter, internal.WebhookConverter)
	if c.Strategy == internal.WebhookConverter {
		errs = append(errs, r.client(c.WebhookClientConfig, at.Child("webhookClientConfig"))...)
		return append(errs, r.reviews(c.ConversionReviewVersions, at.Child("conversionReviewVersions"))...)
	}
	const useless = "should not be set when strategy is not set to Webhook"
	if c.WebhookClientConfig != nil {
		errs = append(errs, field.Forbidden(at.Child("webhookClientConfig"), useless))
	}
	if len(c.ConversionReviewVersions) > 0 {
		errs = append(errs, field.Forbidden(at.Child("conversionReviewVersions"), useless))
	}
	return errs
}

func (r rules) client(c *internal.WebhookClientConfig, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case c == nil:
		return field.ErrorList{field.Required(at, "required when strategy is set to Webhook")}
	case (c.URL == nil) == (c.Service == nil):
		errs = field.ErrorList{field.Required(at, "exactly one of url or service is required")}
	case c.URL != nil:
		errs = validateURL(*c.URL, at.Child("url"))
	default:
		errs = validateService(c.Service, at.Child("service"))
	}
	if len(c.CABundle) > 0 && !r.anyCABundle {
		if err := checkCABundle(c.CABundle); err != nil {
			errs = append(errs, field.Invalid(at.Child("caBundle"), c.CABundle, err.Error()))
		}
	}
	return errs
}

// checkCABundle reports whether clients can be made that trust the bundle.
func checkCABundle(bundle []byte) error {
	_, err := transport.TLSConfigFor(&transport.Config{TLS: transport.TLSConfig{CAData: bundle}})
	return err
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

func validateService(s *internal.ServiceReference, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	// kube-apiserver mistakes one for the other here, and so its errors.
	if s.Namespace == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	if s.Name == "" {
		errs = append(errs, field.Required(at.Child("namespace"), ""))
	}
	if problems := validation.IsValidPortNum(int(s.Port)); len(problems) > 0 {
		errs = append(errs, field.Invalid(at.Child("port"), s.Port, "port is not valid: "+strings.Join(problems, ", ")))
	}
	if s.Path != nil {
		errs = append(errs, validateURLPath(*s.Path, at.Child("path"))...)
	}
	return errs
}

// validateURLPath wants each segment of a path to be a DNS subdomain.
func validateURLPath(path string, at *field.Path) field.ErrorList {
	if path == "" || path == "/" {
		return nil
	}
	if path == "//" {
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

func (r rules) reviews(versions []string, at *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	for i, v := range versions {
		if slices.Contains(versions[:i], v) {
			errs = append(errs, field.Invalid(at.Index(i), v, "duplicate version"))
			continue
		}
		for _, problem := range validation.IsDNS1035Label(v) {
			errs = append(errs, field.Invalid(at.Index(i), v, problem))
		}
	}
	if r.knownReview && !knowsReview(versions) {
		errs = append(errs, field.Invalid(at, versions, "must include at least one of "+strings.Join(reviewVersions, ", ")))
	}
	return errs
}

func knowsReview(versions []string) bool {
	return slices.ContainsFunc(versions, func(v string) bool { return slices.Contains(reviewVersions, v) })
}
