package rest

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// mostText is how many bytes of text a Status has, its causes apart: errors
// repeat what they were sent (paths, names, values of fields), which must not
// cost the server more than it cost the client.
const mostText = 32 << 10

// Short is text, cut if it is longer than an answer may repeat.
func Short(text string) string { return cut(text, mostText) }

func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return fmt.Sprintf("%s... (%d bytes in all)", strings.ToValidUTF8(text[:most], ""), len(text))
}

// shorten cuts all that an error may have from its request.
func shorten(s *metav1.Status) {
	s.Message = Short(s.Message)
	if s.Details == nil {
		return
	}
	d := *s.Details // errors are shared
	for _, text := range []*string{&d.Name, &d.Group, &d.Kind} {
		*text = cut(*text, mostText/16)
	}
	left := mostText
	for i, c := range d.Causes {
		if left -= len(c.Message) + len(c.Field); left < 0 {
			c.Message, c.Field = cut(c.Message, mostText/16), cut(c.Field, mostText/16)
			d.Causes = append(slices.Clone(d.Causes[:i]), c)
			break
		}
	}
	s.Details = &d
}
