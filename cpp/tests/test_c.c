/* A C99 program can use the header. */
#include <stdio.h>
#include <string.h>
#include <tvlt_deploy.h>

int main(void) {
    tvlt_session *session = (tvlt_session *)&session;
    tvlt_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    if (tvlt_abi_version() != TVLT_ABI_VERSION) return 1;
    if (tvlt_open("/nowhere", &options, &session) != TVLT_FILE || session != NULL) return 2;
    puts(tvlt_last_error());
    if (strstr(tvlt_last_error(), "/nowhere") == NULL) return 3;
    tvlt_close(NULL);
    tvlt_result_free(NULL);
    return 0;
}
